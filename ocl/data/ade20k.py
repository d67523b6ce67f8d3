"""ADE20K, the full release with instances (Zhou et al., Scene Parsing through ADE20K Dataset, CVPR 2017)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.segmented_images import SegmentedImages, read_channels

SPLITS = {"train": "training", "val": "validation"}


class ADE20K(SegmentedImages):
    """Photographs of scenes where every object of every class is outlined; see `SegmentedImages` for the items.

    An object is what has one class and one instance number in the photograph's `_seg.png`, whose red and green give
    the class, R // 10 * 256 + G, and whose blue the instance. "class" holds these numbers, more than three thousand,
    as they are. Pixels of class 0 were not annotated: label 0, which probes should leave out (`ignore=[0]`) and the
    published code for IsSameObject takes for one object. The release does not tell things from stuff; `stuff` does.
    Outlines of parts, which lie in other files, are not read.

    Args:
        folder: the release's, ADE20K_2021_17_01, with `images/ADE/training` and `images/ADE/validation`.
        split: "train" or "val".
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        stuff: classes whose objects have the attribute "stuff" (M) bool.
        skip: names of photographs to leave out ("ADE_train_00000001"), damaged ones for example.

    Raises:
        FileNotFoundError: no such folder, no photograph in it, or a missing segmentation.
        ValueError: an unknown split or, on reading, a damaged file or too many objects.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        size: int = 224,
        max_objects: int = 256,
        stuff: Collection[int] = (),
        skip: Collection[str] = (),
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"ADE20K has the splits {', '.join(SPLITS)}, not {split!r}.")
        root = Path(folder) / "images" / "ADE" / SPLITS[split]
        if not root.is_dir():
            raise FileNotFoundError(f"{root} is not a folder; give the folder of the release, ADE20K_2021_17_01.")
        paths = sorted(path for path in root.rglob("*.jpg") if path.stem not in set(skip))
        if not paths:
            raise FileNotFoundError(f"{root} holds no photograph (.jpg), nor do its subfolders.")
        super().__init__(root, paths, size, max_objects)
        self.split, self.stuff = split, tuple(sorted(stuff))

    def segments(self, index: int) -> NDArray[np.int64]:
        path = self.path(index)
        channels = read_channels(path.with_name(f"{path.stem}_seg.png"))
        classes = channels[..., 0] // 10 * 256 + channels[..., 1]
        return np.where(classes > 0, classes * 256 + channels[..., 2], 0)

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        classes = numbers // 256
        return {"class": classes, "stuff": np.isin(classes, self.stuff)}

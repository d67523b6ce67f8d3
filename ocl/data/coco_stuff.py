"""COCO-Stuff: the class of every pixel, of things and of stuff (Caesar, Uijlings, Ferrari, CVPR 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.segmented_images import SegmentedImages, read_indices
from ocl.shapes import IGNORE

SPLITS = ("train", "val")
UNLABELLED = 255
LAST_CLASS, LAST_THING = 182, 91


class COCOStuff(SegmentedImages):
    """Photographs where all pixels of one class are one segment; see `SegmentedImages` for the items.

    Read from the PNG of stuffthingmaps, which number the classes 0..181 and unlabelled pixels 255: label -1. "class"
    (M) is the category's id in COCO, one more than that number: 1..91 things, 92..182 "stuff" (M) bool.

    Args:
        folder: holds `train2017`, `val2017` and `stuffthingmaps` with the same two folders in it.
        split: "train" or "val".
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        label_size: see `SegmentedImages`.

    Raises:
        FileNotFoundError: no such folder, no map in it, or a missing photograph.
        ValueError: an unknown split or, on reading, a damaged file, an unknown class or too many of them.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "val",
        size: int = 224,
        max_objects: int = 100,
        label_size: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"COCO-Stuff has the splits {', '.join(SPLITS)}, not {split!r}.")
        folder = Path(folder)
        self._maps = folder / "stuffthingmaps" / f"{split}2017"
        names = sorted(path.stem for path in self._maps.glob("*.png"))
        if not names:
            raise FileNotFoundError(f"{self._maps} holds no map (.png); unpack stuffthingmaps there.")
        paths = [folder / f"{split}2017" / f"{name}.jpg" for name in names]
        absent = next((photograph for photograph in paths if not photograph.is_file()), None)
        if absent is not None:
            raise FileNotFoundError(f"{absent} is missing; unpack the photographs beside the maps.")
        super().__init__(folder, paths, size, max_objects, label_size)
        self.split = split

    def segments(self, index: int) -> NDArray[np.int64]:
        path = self._maps / f"{self.path(index).stem}.png"
        classes = read_indices(path) + 1
        strange = classes[(classes > LAST_CLASS) & (classes != UNLABELLED + 1)]
        if len(strange):
            raise ValueError(
                f"{path} holds the number {strange[0] - 1}, and no class of COCO-Stuff has it; restore it."
            )
        return np.where(classes == UNLABELLED + 1, IGNORE, classes)

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"class": numbers, "stuff": numbers > LAST_THING}

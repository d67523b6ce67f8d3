"""CLEVRTEX: rendered scenes in which objects and ground have photographed materials (Karazija et al., NeurIPS 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocl.data.images import read_image
from ocl.data.segmented_images import SegmentedImages, read_indices

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd")
SPLITS = {"test": (0, 10), "val": (10, 20), "train": (20, 100)}
"""Percent of the images, in the order of their numbers."""


class CLEVRTEX(SegmentedImages):
    """Scenes of 3 to 10 objects on a ground; see `SegmentedImages` for the items.

    The published preparation: the central square of 0.8 times the short side, resized to 128. It resizes images
    bilinearly, this reader as all readers here, bicubic. The ground is the background. The JSON beside each image is
    not read, so objects have no attributes.

    Args:
        folder: holds `clevrtex_full` (or another variant), with CLEVRTEX_full_000000.png and
            CLEVRTEX_full_000000_flat.png in numbered folders.
        split: "train", "val" or "test": the last 80, the second 10 and the first 10 percent. "outd" is published for
            testing as a whole: "test" is all of it, and it has no other.
        variant: "full", "pbg", "vbg", "grassbg", "camo" or "outd".
        size: S in pixels.
        max_objects: M.
        crop: side of the square, as a share of the short side.
        label_size: see `SegmentedImages`.

    Raises:
        FileNotFoundError: no such folder, no image in it, or a missing mask.
        ValueError: an unknown split or variant, a crop outside (0, 1] or, on reading, a damaged file or too many
            objects.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        variant: str = "full",
        size: int = 128,
        max_objects: int = 10,
        crop: float = 0.8,
        label_size: int | None = None,
    ) -> None:
        if variant not in VARIANTS or split not in SPLITS or (variant == "outd" and split != "test"):
            known = f"the variants {', '.join(VARIANTS)} with the splits {', '.join(SPLITS)} (outd: test alone)"
            raise ValueError(f"CLEVRTEX has {known}, not {variant!r} with {split!r}.")
        if not 0 < crop <= 1:
            raise ValueError(f"crop must be in (0, 1], got {crop}.")
        root = Path(folder) / f"clevrtex_{variant}"
        paths = sorted(root.glob(f"**/CLEVRTEX_{variant}_{'[0-9]' * 6}.png"), key=lambda path: path.name)
        if not paths:
            raise FileNotFoundError(
                f"{root} holds no CLEVRTEX_{variant}_000000.png; unpack the parts of CLEVRTEX there."
            )
        if variant != "outd":
            start, stop = (share * len(paths) // 100 for share in SPLITS[split])
            paths = paths[start:stop]
        if not paths:
            raise FileNotFoundError(f"{root} holds too few images for the split {split!r}; unpack all parts.")
        super().__init__(root, paths, size, max_objects, label_size)
        self.split, self.variant, self.crop = split, variant, crop

    def photograph(self, index: int) -> Image.Image:
        image = read_image(self.path(index))
        return image.crop(self._box(image.width, image.height))

    def segments(self, index: int) -> NDArray[np.int64]:
        path = self.path(index)
        labels = read_indices(path.with_name(f"{path.stem}_flat.png"))
        left, top, right, bottom = self._box(labels.shape[1], labels.shape[0])
        return labels[top:bottom, left:right]

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {}

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        side = int(self.crop * min(width, height))
        left, top = (width - side) // 2, (height - side) // 2
        return left, top, left + side, top + side

"""Boxes for a data set that has segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from ocl.data.scenes import Item, read_items
from ocl.metrics.boxes import tight_boxes


class WithBoxes(Dataset[Item]):
    """Another data set whose items also hold the tight box of every object's visible pixels.

    Items get "boxes" (M 4) float32, (x0, y0, x1, y1) in [0, 1] of the image with y pointing down, and "box_known" (M)
    bool, False (and the box 0) where column m of the attributes has no pixel. M is that of "visible".

    Raises:
        ValueError: items without "segmentation" or "visible".
    """

    def __init__(self, dataset: Dataset) -> None:  # type: ignore[type-arg]
        self.dataset: Any = dataset
        first = self.dataset[0]
        if not {"segmentation", "visible"} <= first.keys():
            raise ValueError(
                f'WithBoxes needs items with "segmentation" and "visible"; these hold {", ".join(sorted(first))}.'
            )
        self.image_size: tuple[int, int] = tuple(first["images"].shape[1:])
        self.max_objects = len(first["visible"])
        self.categories: dict[str, tuple[str, ...]] = getattr(dataset, "categories", {})
        self.block = int(getattr(dataset, "block", 1))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        items = read_items(self.dataset, indices)
        labels = torch.stack([item["segmentation"].long() for item in items]) - 1  # (n H W), objects from 0 on
        boxes, known = tight_boxes(labels)
        height, width = labels.shape[1:]
        boxes = (boxes / boxes.new_tensor([width, height, width, height])).float()
        if known[:, self.max_objects :].any():
            raise ValueError(
                f"WithBoxes found label {known.shape[1]} in a segmentation of items with {self.max_objects} objects."
            )
        absent = self.max_objects - known.shape[1]  # -1 in a set without objects: there is always a first column
        boxes, known = F.pad(boxes, (0, 0, 0, absent)), F.pad(known, (0, absent))
        return [{**item, "boxes": box, "box_known": seen} for item, box, seen in zip(items, boxes, known, strict=True)]

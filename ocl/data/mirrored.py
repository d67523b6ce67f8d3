"""Every image and its mirror image, as two items."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ocl.data.scenes import Item, read_items

PLACES = ("position", "points")
BOXES = ("boxes",)
UNKNOWN = ("angle", "camera")
"""Attributes of our scenes whose mirror image is not worked out here."""


class Mirrored(Dataset[Item]):
    """Twice the items: those of a data set, then their mirror images, left for right.

    Each epoch then holds either view of every image once, in an order drawn with the seed of the data module, and what
    is written of them (`ocl extract`, `ocl generate`) holds both: the tokens of a mirrored image, which are not the
    mirrored tokens of the image.

    "images" and "segmentation" are mirrored, as are the places that are known under the usual names: "position",
    "points" and "boxes" in [0, 1]. Other attributes are taken not to depend on the side.

    Args:
        dataset: items with "images" (3 H W).

    Raises:
        ValueError: items with an "angle" or a "camera", which would have to change too.
    """

    def __init__(self, dataset: Dataset) -> None:  # type: ignore[type-arg]  # for jsonargparse
        self.dataset: Dataset[Item] = dataset

    def __len__(self) -> int:
        return 2 * len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`; IndexError where one is outside 0..len - 1."""
        count = len(self) // 2
        if not all(0 <= index < 2 * count for index in indices):
            raise IndexError(f"indices must be in 0..{2 * count - 1}, got {min(indices)}..{max(indices)}.")
        items = read_items(self.dataset, [index % count for index in indices])
        return [mirrored(item) if index >= count else item for index, item in zip(indices, items, strict=True)]


def mirrored(item: Item) -> Item:
    """The item seen in a mirror; see `Mirrored`."""
    if unknown := [name for name in UNKNOWN if name in item]:
        raise ValueError(f"the mirror image of {', '.join(unknown)} is not known; leave it out of the items.")
    return {name: _mirrored(name, value) for name, value in item.items()}


def _mirrored(name: str, value: Tensor) -> Tensor:
    if name in ("images", "segmentation"):
        return value.flip(-1)
    if name in PLACES:  # (... 2) as (x, y)
        return torch.stack([1 - value[..., 0], value[..., 1]], dim=-1)
    if name in BOXES:  # (... 4) as (x0, y0, x1, y1)
        return torch.stack([1 - value[..., 2], value[..., 1], 1 - value[..., 0], value[..., 3]], dim=-1)
    return value

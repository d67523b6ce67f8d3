"""Procedural scenes as map-style data sets: item i is a pure function of (seed, i), whoever asks for it and when."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Item = dict[str, Tensor]
"""One example: "images" (3 H W) uint8, "segmentation" (H W), "visible" (M) bool and attributes (M ...)."""

REQUIRED = ("images", "segmentation", "visible")


def read_items(dataset: Dataset[Item], indices: Sequence[int]) -> list[Item]:
    """The items at `indices`, in one call where the data set reads several together."""
    together = getattr(dataset, "__getitems__", None)
    items: list[Item] = together(indices) if together else [dataset[index] for index in indices]
    return items


class Scenes(Dataset[Item], ABC):
    """Scenes drawn by a generator, `block` at a time.

    Block b holds the scenes b * block .. (b + 1) * block - 1 and is drawn from its own generator, seeded by (seed, b).
    So neither the order of access nor the number of workers changes an item, two seeds are two disjoint splits, and a
    larger `size` only appends. A changed `block` gives other scenes of the same distribution.

    Whole blocks are drawn at once and the last two are kept: read in runs of `block` consecutive indices
    (`ocl.data.module` does), and let the batch size be a multiple of `block` where several workers read.
    """

    image_size: tuple[int, int]
    """(H, W) of the images."""
    max_objects: int
    """M of the attributes: the most objects that a scene can hold."""
    categories: ClassVar[dict[str, tuple[str, ...]]] = {}
    """The names of the classes of every integer attribute."""

    def __init__(self, size: int, seed: int = 0, block: int = 32) -> None:
        for name, value, least, limit in (
            ("size", size, 1, 2**40),
            ("seed", seed, 0, 2**32),
            ("block", block, 1, 2**20),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{type(self).__name__}: {name} must be an integer, got {value!r}.")
            if not least <= value < limit:
                raise ValueError(f"{type(self).__name__}: {name} must be in {least}..{limit - 1}, got {value}.")
        self.size, self.seed, self.block = int(size), int(seed), int(block)
        self._recent: OrderedDict[int, Item] = OrderedDict()

    @abstractmethod
    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        """Draw n = `count` scenes at once, using no other source of randomness than `generator`.

        Returns:
            "images" (n 3 H W) uint8; "segmentation" (n H W) uint8, 0 background and m + 1 the object in column m;
            "visible" (n M) bool, at least one pixel seen; attributes (n M ...), int64 categories or float32 quantities.
        """

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`, each touched block drawn once.

        Raises:
            IndexError: an index outside 0..size - 1 (or -size..-1, counted from the end).
        """
        items: list[Item | None] = [None] * len(indices)
        blocks: dict[int, list[int]] = {}
        places = [self._within(index) for index in indices]
        for slot, place in enumerate(places):
            blocks.setdefault(place // self.block, []).append(slot)
        for number, slots in blocks.items():
            scenes = self._block(number)
            rows = torch.tensor([places[slot] % self.block for slot in slots])
            taken = {name: values[rows].unbind() for name, values in scenes.items()}  # a copy: callers may write
            for row, slot in enumerate(slots):
                items[slot] = {name: values[row] for name, values in taken.items()}
        return [item for item in items if item is not None]

    def _within(self, index: int) -> int:
        place = int(index) + self.size if index < 0 else int(index)
        if not 0 <= place < self.size:
            raise IndexError(f"{type(self).__name__} has {self.size} scenes; there is none at index {index}.")
        return place

    def _block(self, number: int) -> Item:
        if number not in self._recent:
            generator = np.random.default_rng(np.random.SeedSequence([self.seed, number]))
            self._recent[number] = self._checked(self.generate(generator, self.block))
            if len(self._recent) > 2:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number]

    def _checked(self, scenes: dict[str, NDArray[Any]]) -> Item:
        name = type(self).__name__
        missing = [key for key in REQUIRED if key not in scenes]
        if missing:
            raise ValueError(f"{name}.generate must return {', '.join(REQUIRED)}; missing: {', '.join(missing)}.")
        for key, values in scenes.items():
            if values.shape[0] != self.block:
                raise ValueError(f"{name}.generate was asked for {self.block} scenes, but {key} has {values.shape[0]}.")
        return {key: torch.from_numpy(np.ascontiguousarray(values)) for key, values in scenes.items()}

    def __getstate__(self) -> dict[str, Any]:
        """Workers start without the kept blocks."""
        return {**self.__dict__, "_recent": OrderedDict()}

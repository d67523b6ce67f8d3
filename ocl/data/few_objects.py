"""Scenes of few objects out of stored ones, such as CLEVR6."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from ocl.data.scenes import Item
from ocl.data.stored import StoredScenes


class FewObjects(Dataset[Item]):
    """The stored scenes in which at most `most` objects are seen, in the order of the store.

    CLEVR6 is `most=6` of CLEVR with masks. What is counted is "visible": objects with a pixel in the cut that was
    stored, so that ones that it cuts away do not count.

    Args:
        scenes: a store with "visible" (M) bool, such as `ocl generate` writes.
        most: objects.

    Raises:
        ValueError: a store without "visible", or without such a scene.
    """

    def __init__(self, scenes: StoredScenes, most: int = 6) -> None:
        counts = scenes.column("visible").sum(axis=1)
        if counts.ndim != 1:
            raise ValueError('FewObjects counts the objects of images; these are clips: "visible" has a time axis.')
        self.scenes, self.most, self.image_size, self.categories = scenes, most, scenes.image_size, scenes.categories
        self._places = np.flatnonzero(counts <= most)
        if not len(self._places):
            raise ValueError(f"no stored scene shows at most {most} objects; the emptiest shows {counts.min()}.")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`, in one reading; IndexError where one is outside 0..len - 1 (or -len..-1)."""
        return self.scenes.__getitems__(self._places[list(indices)].tolist())

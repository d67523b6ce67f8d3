"""Points for a part of a data set: the weak (points only), semi (some images only) supervision of SLASH."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ocl.data.scenes import Item, read_items

MOST_IN_CYCLE = 100
"""A labelled share is taken as the nearest fraction with a denominator up to this."""


class WeakPoints(Dataset[Item]):
    """Another data set whose items also say where some of their objects are (Kim et al., CVPR 2023).

    Items get "points" (M 2) float32, the "position" of the objects whose point is known and 0 for all others, and
    "point_known" (M) bool. Exactly round(image_fraction x n) of the n images are labelled; a visible object of such an
    image keeps its point with `object_probability`, unless its position is outside the image. Both choices depend on
    the seed and on the image alone, so they are the same in every epoch. Images are labelled in whole runs of the data
    set's `block`, the last one cut short: a procedural block is then drawn once for all its labels, and scenes of a
    block are as independent as any others. Where there is no `block`, single images are chosen.

    With a `labelled_share`, the set is longer than the one inside: every item of that is there once and between them,
    evenly, stand labelled ones, the first to the last and again, until the share is reached. Then `block` is the
    shortest run with a whole number of blocks of the inner set, so batches that hold a multiple of 1 / share items have
    exactly that share drawn from the labelled (the others hold labelled images too, at their natural rate).

    Args:
        dataset: map-style, with "position" (M 2) as (x, y) and "visible" (M) in its items.
        image_fraction: labelled images, as a share of all; 0 to 1.
        object_probability: of a visible object of a labelled image to keep its point; above 0, at most 1. The
            published 0.75 is in the configs' names only: the public code reads another key and keeps all.
        labelled_share: of the items of an epoch, 0.01 to 0.99; published 0.25. None adds no items, nor does a fraction
            of 0, which leaves nothing to add.
        seed: of the choice.

    Raises:
        ValueError: a share out of range, a fraction above 0 that rounds to no image, or items without positions.
        IndexError: on reading an index outside the set.
    """

    def __init__(
        self,
        dataset: Dataset,  # type: ignore[type-arg]
        image_fraction: float = 0.1,
        object_probability: float = 0.75,
        labelled_share: float | None = 0.25,
        seed: int = 0,
    ) -> None:
        if not 0 <= image_fraction <= 1:
            raise ValueError(f"WeakPoints: image_fraction must be in [0, 1], got {image_fraction}.")
        if not 0 < object_probability <= 1:
            raise ValueError(f"WeakPoints: object_probability must be above 0 and at most 1, got {object_probability}.")
        if labelled_share is not None and not 0.01 <= labelled_share <= 0.99:
            raise ValueError(f"WeakPoints: labelled_share must be in [0.01, 0.99] or None, got {labelled_share}.")
        if seed < 0:
            raise ValueError(f"WeakPoints: seed must be at least 0, got {seed}.")
        self.dataset: Any = dataset  # `Dataset` itself promises no length
        images: int = len(dataset)  # type: ignore[arg-type]
        labelled = round(image_fraction * images)
        if image_fraction > 0 and labelled == 0:
            raise ValueError(
                f"WeakPoints: a fraction of {image_fraction} of {images} images labels none; ask for 0 or for more."
            )
        first = self.dataset[0]
        if not {"position", "visible"} <= first.keys():
            raise ValueError(
                f'WeakPoints needs items with "position" and "visible"; these hold {", ".join(sorted(first))}.'
            )
        self.image_fraction, self.object_probability, self.seed = image_fraction, object_probability, seed
        self.labelled_share = labelled_share
        self.image_size: tuple[int, int] = tuple(first["images"].shape[1:])
        self.max_objects = len(first["visible"])
        self.categories: dict[str, tuple[str, ...]] = getattr(dataset, "categories", {})

        inner_block = int(getattr(dataset, "block", 1))
        generator = np.random.default_rng(np.random.SeedSequence([seed]))
        runs = generator.permutation(-(-images // inner_block))
        order = (runs[:, None] * inner_block + np.arange(inner_block)).reshape(-1)
        self._labelled = order[order < images][:labelled]
        self._kept = np.zeros((images, self.max_objects), dtype=bool)
        self._kept[self._labelled] = generator.random((labelled, self.max_objects)) < object_probability

        share = labelled_share if labelled_share is not None and labelled > 0 else 0.0
        self._share = Fraction(share).limit_denominator(MOST_IN_CYCLE)
        others, cycle = self._share.denominator - self._share.numerator, self._share.denominator
        self._size = images * cycle // others
        self.block = cycle * inner_block // int(np.gcd(others, inner_block))

    @property
    def labelled_ids(self) -> NDArray[np.int64]:
        """Which images of the inner set are labelled, ascending."""
        return np.sort(self._labelled)

    def inner_index(self, index: int) -> int:
        """Which item of the inner set stands at `index`."""
        place = int(index) + self._size if index < 0 else int(index)
        if not 0 <= place < self._size:
            raise IndexError(f"WeakPoints has {self._size} items; there is none at index {index}.")
        extra, cycle = self._share.numerator, self._share.denominator
        before = place * extra // cycle  # added items in front of this one
        if (place + 1) * extra // cycle > before:
            return int(self._labelled[before % len(self._labelled)])
        return place - before

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        inner = [self.inner_index(index) for index in indices]
        items = read_items(self.dataset, inner)
        return [self._with_points(item, index) for item, index in zip(items, inner, strict=True)]

    def _with_points(self, item: Item, index: int) -> Item:
        position = item["position"].float()
        within = ((position >= 0) & (position <= 1)).all(dim=-1)
        known = torch.from_numpy(self._kept[index]) & item["visible"] & within
        return {**item, "points": torch.where(known[:, None], position, 0.0), "point_known": known}

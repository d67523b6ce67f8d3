"""Accuracy of a classifier by groups of images, with bootstrap intervals: one row per image, no group left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]
"""right and total (... G) float64 -> (...): a figure made of how many images of each group were classified right."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % percentile bootstrap over images."""

    value: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Answers:
    """What a classifier said of n images, one row each.

    images:      n names, no two alike.
    predictions: (n) int64, labels: (n) int64.

    Raises:
        ValueError: no image, unequal lengths, classes that are no integers, or an image that appears twice.
    """

    images: Sequence[str]
    predictions: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        count = len(self.images)
        if count == 0 or self.predictions.shape != (count,) or self.labels.shape != (count,):
            found = f"{count} images, predictions {tuple(self.predictions.shape)}, labels {tuple(self.labels.shape)}"
            raise ValueError(
                f"there must be one prediction and one label per image and at least one image; got {found}."
            )
        if self.predictions.is_floating_point() or self.labels.is_floating_point():
            found = f"{self.predictions.dtype} and {self.labels.dtype}"
            raise ValueError(f"predictions and labels must be classes, integers, got {found}; take the argmax.")
        if len(set(self.images)) < count:
            image, times = Counter(self.images).most_common(1)[0]
            raise ValueError(f"every image must be counted once; {image} is there {times} times.")

    def by(self, groups: Tensor, names: Sequence[str]) -> GroupCounts:
        """Counts per group: groups (n) int64, the place of each image's group in `names`; -1 leaves an image out."""
        if groups.shape != self.labels.shape:
            raise ValueError(f"groups must be {tuple(self.labels.shape)}, one per image, got {tuple(groups.shape)}.")
        if len(set(names)) < len(names):
            raise ValueError(f"every group needs a name of its own, got {', '.join(names)}.")
        if int(groups.min()) < -1 or int(groups.max()) >= len(names):
            raise ValueError(f"groups must be in -1..{len(names) - 1}, got {int(groups.min())}..{int(groups.max())}.")
        right = groups[(groups >= 0) & (self.predictions == self.labels)]
        counts = (part.bincount(minlength=len(names)).cpu() for part in (right, groups[groups >= 0]))
        return GroupCounts(tuple(names), *counts)

    def by_class(self, classes: Sequence[str]) -> GroupCounts:
        """Counts per true class: labels are places in `classes`."""
        return self.by(self.labels, classes)


@dataclass(frozen=True)
class GroupCounts:
    """How many images each of G groups has and how many of them were classified right; groups may be empty.

    A bootstrap over images needs no more than these: resampling n images with replacement draws the counts of
    (group, right or wrong) from a multinomial distribution, which is done directly.

    names: G, right: (G) int64, total: (G) int64, both on the CPU.
    """

    names: tuple[str, ...]
    right: Tensor
    total: Tensor

    def accuracies(self) -> dict[str, Interval]:
        """Every group's accuracy, by name; NaN for a group without images."""
        return {name: self.interval(_of_group(g), int(self.total[g])) for g, name in enumerate(self.names)}

    def interval(
        self, measure: Measure, images: int | None = None, *, resamples: int = 1000, seed: int = 0
    ) -> Interval:
        """`measure` with its 95 % percentile bootstrap over images; resamples where it is NaN do not count."""
        counts = torch.stack([self.right, self.total - self.right]).flatten().numpy()
        number = int(counts.sum())
        value = float(measure(self.right.double(), self.total.double()))
        if number == 0:
            return Interval(value, float("nan"), float("nan"), 0)
        drawn = np.random.default_rng(seed).multinomial(number, counts / number, size=resamples)
        right, wrong = torch.from_numpy(drawn).double().chunk(2, dim=1)  # (resamples G)
        figures = measure(right, right + wrong).numpy()
        figures = figures[~np.isnan(figures)]
        low, high = np.percentile(figures, [2.5, 97.5]) if len(figures) else (float("nan"),) * 2
        return Interval(value, float(low), float(high), number if images is None else images)

    def accuracy(self) -> Interval:
        """Share of the images that were classified right."""
        return self.interval(overall)

    def mean(self) -> Interval:
        """Mean over the groups of their accuracy, groups without a hit included; with classes, the per-class mean."""
        return self.interval(group_mean)

    def worst(self) -> Interval:
        """Accuracy of the worst group. The least of noisy figures is biased low, and so is its interval."""
        return self.interval(worst_group)

    def weighted(self, ratios: Sequence[float]) -> Interval:
        """Accuracy on images mixed by `ratios` (G), which sum to 1: in-distribution accuracy from a balanced test set.

        Raises:
            ValueError: ratios that are negative, do not sum to 1, or weigh a group without images.
        """
        weights = torch.tensor(list(ratios), dtype=torch.float64)
        if weights.shape != self.total.shape or (weights < 0).any() or abs(float(weights.sum()) - 1) > 1e-6:
            raise ValueError(f"ratios must be {len(self.names)} numbers from 0 up that sum to 1, got {list(ratios)}.")
        if (bare := (weights > 0) & (self.total == 0)).any():
            raise ValueError(f"group {self.names[int(bare.byte().argmax())]} has a ratio but no image.")
        return self.interval(lambda right, total: (_shares(right, total).nan_to_num() * weights).sum(-1))

    def gap(self, upper: str, lower: str) -> dict[str, Interval]:
        """Both subsets' accuracies and "gap", upper - lower: a gap also closes when the upper one falls."""
        for name in (upper, lower):
            if name not in self.names:
                raise ValueError(f"there is no group {name}; there are {', '.join(self.names)}.")
        first, second = self.names.index(upper), self.names.index(lower)
        pair = int(self.total[first] + self.total[second])
        accuracies = self.accuracies()
        gap = self.interval(lambda right, total: _of_group(first)(right, total) - _of_group(second)(right, total), pair)
        return {upper: accuracies[upper], lower: accuracies[lower], "gap": gap}


def overall(right: Tensor, total: Tensor) -> Tensor:
    """(... G) -> (...): share of all images."""
    share: Tensor = right.sum(-1) / total.sum(-1)
    return share


def group_mean(right: Tensor, total: Tensor) -> Tensor:
    """(... G) -> (...): mean over the groups that have images."""
    return _shares(right, total).nanmean(-1)


def worst_group(right: Tensor, total: Tensor) -> Tensor:
    """(... G) -> (...): least over the groups that have images; NaN where there are none."""
    return _shares(right, total).nan_to_num(nan=torch.inf).amin(-1).where((total > 0).any(-1), torch.nan)


def _shares(right: Tensor, total: Tensor) -> Tensor:
    """NaN where there is no image."""
    return right / total


def _of_group(group: int) -> Measure:
    return lambda right, total: right[..., group] / total[..., group]

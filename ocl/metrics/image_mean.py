"""One value per image, then the mean over the images that count: the shape of every metric here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torchmetrics import Metric


class PerImage(NamedTuple):
    """values: (B) float64, 0 where not counted. counted: (B) bool, False where the measure is undefined."""

    values: Tensor
    counted: Tensor


def mean_over(values: Tensor, counted: Tensor, dim: int = -1) -> Tensor:
    """Mean of `values` where `counted`, along `dim`; 0 where nothing counts."""
    return (values * counted).sum(dim) / counted.sum(dim).clamp(min=1)


class ImageMeans(Metric):
    """Means over images of `count` measures, kept as sums and numbers of images in float64.

    The sums are added over processes, so any split of the images into batches and processes gives the same means.
    Images where a measure is undefined are left out of its mean; a mean over no image is NaN.
    """

    full_state_update = False
    higher_is_better = True
    totals: Tensor
    images: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")

    def add(self, measures: Sequence[PerImage]) -> None:
        self.totals += torch.stack([(measure.values * measure.counted).sum() for measure in measures])
        self.images += torch.stack([measure.counted.sum() for measure in measures])

    def means(self) -> Tensor:
        """(count) float64."""
        return self.totals / self.images

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Self:
        # Casting a whole model to half precision must not round the sums.
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        super()._apply(move, exclude_state)
        return self


class ImageMean(ImageMeans, ABC):
    """Mean over images of one measure."""

    def __init__(self) -> None:
        super().__init__(1)

    @abstractmethod
    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        """See `ocl.metrics.labels.contingency` for the arguments."""

    def update(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> None:
        """Add B images: label maps (B H W) or soft masks (B K h w), against segmentation (B H W)."""
        self.add([self.measure(prediction, segmentation, valid)])

    def compute(self) -> Tensor:
        return self.means()[0]

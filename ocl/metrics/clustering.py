"""Adjusted Rand index (Hubert and Arabie, 1985) of every image, over all pixels or over foreground pixels only."""

from __future__ import annotations

from torch import Tensor

from ocl.metrics.image_mean import ImageMean, PerImage
from ocl.metrics.labels import contingency


def adjusted_rand_index(table: Tensor) -> PerImage:
    """ARI of all pixels that are not ignored; background is one more true cluster.

    1 for equal partitions, 0 in expectation for a random one, can be negative. Two partitions that agree trivially
    (both one cluster, both all singletons, one pixel) score 1. Images whose pixels are all ignored do not count.

    Args:
        table: (B G P) from `contingency`.
    """
    # Ordered pairs of distinct pixels, as exact integers in float64. In int64 the products below overflow: at 256 x 256
    # when one cluster covers most of the image, and nearly always for video.
    together = _pairs(table).sum((1, 2))  # in both partitions
    only_true = _pairs(table.sum(2)).sum(1) - together
    only_predicted = _pairs(table.sum(1)).sum(1) - together
    pixels = table.sum((1, 2))
    apart = _pairs(pixels) - together - only_true - only_predicted  # in both partitions
    # Written over the four pair counts, the index subtracts once and its denominator only adds, so it keeps its digits
    # where both partitions are close to a single cluster and (R - E) / (max - E) would not.
    numerator = 2 * (together * apart - only_true * only_predicted)
    denominator = (together + only_true) * (only_true + apart) + (together + only_predicted) * (only_predicted + apart)
    agree = (only_true == 0) & (only_predicted == 0)
    values = (numerator / denominator.clamp(min=1)).masked_fill(agree, 1.0)
    counted = pixels > 0
    return PerImage(values * counted, counted)


def foreground_ari(table: Tensor) -> PerImage:
    """FG-ARI: the ARI of the pixels whose TRUE label is an object, against all predicted clusters.

    Background split over slots, or an object merged with background, costs nothing; only objects split or merged
    with each other do. With one object in the image the value is 1 if one cluster covers it and 0 otherwise. Images
    without object pixels do not count.

    Args:
        table: (B G P) from `contingency`.
    """
    return adjusted_rand_index(table[:, 1:])


def _pairs(count: Tensor) -> Tensor:
    return count * (count - 1)


class AdjustedRandIndex(ImageMean):
    """Mean over images of `adjusted_rand_index`."""

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return adjusted_rand_index(contingency(prediction, segmentation, valid))


class ForegroundARI(ImageMean):
    """Mean over images of `foreground_ari`."""

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return foreground_ari(contingency(prediction, segmentation, valid))

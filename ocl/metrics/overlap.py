"""Metrics of intersection over union: mBO, mIoU, CorLoc, object recovery.

`background` says whether the true background is one of the segments to be found. False is the convention of
DINOSAUR and SPOT; True (used in part of the later literature) gives other, not comparable numbers.
"""

from __future__ import annotations

from torch import Tensor

from ocl.matching import optimal_assignment
from ocl.metrics.image_mean import ImageMean, PerImage, mean_over
from ocl.metrics.labels import contingency


def intersection_over_union(table: Tensor, background: bool = False) -> tuple[Tensor, Tensor]:
    """IoU of every true segment with every predicted one; both cover the pixels that are not ignored.

    Args:
        table: (B G P) from `contingency`.

    Returns:
        iou (B G' P-1) float64, 0 for segments without pixels, and present (B G') bool, the true segments with at
        least one pixel. G' = G - 1 objects, or G where the background counts (row 0).
    """
    first = 0 if background else 1
    shared = table[:, first:, 1:]
    area = table.sum(2)[:, first:]  # (B G')
    union = area[:, :, None] + table.sum(1)[:, None, 1:] - shared
    return shared / union.clamp(min=1), area > 0


def mean_best_overlap(table: Tensor, background: bool = False) -> PerImage:
    """mBO: each true segment takes its best IoU (predicted segments may serve several); mean over the segments.

    For instances (mBO_i) build the table from the instance map, for classes (mBO_c) from `class_segmentation`.
    Images without a true segment do not count. Ties cannot change the value.

    Args:
        table: (B G P) from `contingency`.
    """
    iou, present = intersection_over_union(table, background)
    return PerImage(mean_over(iou.amax(2), present), present.any(1))


def mean_iou(table: Tensor, background: bool = False, padded: int | None = None) -> PerImage:
    """mIoU of object discovery: match true and predicted segments one to one so that the summed IoU is largest, then
    take the mean over the true segments; those left without a partner score 0.

    Not the class-level mIoU of semantic segmentation. Images without a true segment do not count.

    Args:
        table: (B G P) from `contingency`.
        padded: None, or the number of true masks to divide by instead of the number present. Some published code pads
            the ground truth to K with empty masks that score 0, which caps n objects at n / K (with `background`,
            (n + 1) / K); only to reproduce such numbers.
    """
    iou, present = intersection_over_union(table, background)
    # Absent segments have IoU 0 with everything, so they may stay in the table: they never raise a total.
    columns, matched = optimal_assignment(-iou)
    total = (iou.gather(2, columns[:, :, None])[:, :, 0] * matched).sum(1)
    counted = present.any(1)
    segments = present.sum(1).clamp(min=1) if padded is None else padded
    return PerImage(total / segments * counted, counted)


def recovery(table: Tensor) -> PerImage:
    """Share of the objects whose best IoU exceeds 0.5 (strictly). Images without an object do not count.

    Args:
        table: (B G P) from `contingency`.
    """
    iou, present = intersection_over_union(table)
    return PerImage(mean_over((iou.amax(2) > 0.5).double(), present), present.any(1))


def corloc(table: Tensor) -> PerImage:
    """CorLoc on masks: 1 if at least one object has a best IoU above 0.5 (strictly), else 0.

    Published CorLoc figures mostly compare boxes: see `ocl.metrics.boxes`. Images without an object do not count.

    Args:
        table: (B G P) from `contingency`.
    """
    recovered, counted = recovery(table)
    return PerImage((recovered > 0).double(), counted)


class MeanBestOverlap(ImageMean):
    """Mean over images of `mean_best_overlap`."""

    def __init__(self, background: bool = False) -> None:
        super().__init__()
        self.background = background

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return mean_best_overlap(contingency(prediction, segmentation, valid), self.background)


class MeanIoU(ImageMean):
    """Mean over images of `mean_iou`."""

    def __init__(self, background: bool = False, padded: int | None = None) -> None:
        super().__init__()
        self.background = background
        self.padded = padded

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return mean_iou(contingency(prediction, segmentation, valid), self.background, self.padded)


class CorLoc(ImageMean):
    """Mean over images of `corloc`."""

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return corloc(contingency(prediction, segmentation, valid))

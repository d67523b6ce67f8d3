"""Panoptic quality without classes (Kirillov et al. 2019, arXiv 1801.00868)."""

from __future__ import annotations

from torch import Tensor

from ocl.metrics.image_mean import PerImage
from ocl.metrics.overlap import intersection_over_union


def panoptic_quality(table: Tensor, background: bool = True) -> PerImage:
    """PQ = (sum of IoU over matched pairs) / ((true segments + predicted segments) / 2).

    A pair is matched where its IoU exceeds 0.5 (strictly), which no segment can do twice. Classes play no part: slots
    name none. Images without a true segment do not count.

    Args:
        table: (B G P) from `contingency`.
        background: the true background, where it has pixels, is one more segment to be found.
    """
    iou, present = intersection_over_union(table, background)
    found = (iou * (iou > 0.5)).sum((1, 2))
    segments = present.sum(1) + (table.sum(1)[:, 1:] > 0).sum(1)
    return PerImage(2 * found / segments.clamp(min=1), present.any(1))

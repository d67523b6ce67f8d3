"""How far predicted points are from the objects."""

from __future__ import annotations

from torch import Tensor

from ocl.matching import match_points, replace_matched
from ocl.metrics.image_mean import PerImage, mean_over


def point_error(points: Tensor, places: Tensor, visible: Tensor, valid: Tensor | None = None) -> PerImage:
    """Mean distance between the visible objects and the points matched to them at the least total distance.

    Distances are in image widths where images are square. Images without a visible object do not count.

    Args:
        points: (B K 2) as (x, y) in [0, 1]; those of one iteration.
        places: (B M 2) of the objects, likewise.
        visible: (B M) bool.
        valid: (B K) bool, slots that count; all where None.
    """
    match = match_points(points, places, visible, valid)
    points = points.detach().double()
    distance = (points - replace_matched(points, places, match)).norm(dim=-1)  # (B K), 0 where there is no partner
    matched = match >= 0
    return PerImage(mean_over(distance, matched), matched.any(dim=1))

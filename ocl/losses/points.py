"""Weak supervision of slots by points: SLASH's loss on the points that slots predict for themselves."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.matching import match_points, replace_matched
from ocl.shapes import Batch, Output


class PointLoss(nn.Module):
    """Squared distance between the point of each slot and the known point it was matched to, summed over iterations:

        sum over t of  1 / (B_l K 2)  sum over matched slots of || p_k^(t) - g_k ||^2

    with B_l the images that have known points; 0 where there are none (Kim et al. 2023, arXiv 2303.17842, weight 0.01).
    Slots without a partner count in the denominator, as published. The true points are the hints of the batch, the
    matching is that of the grouping in training; in validation, where it knows no hints, its first points are matched.

    Args:
        matched_only: divide by twice the number of matched slots instead, so that the weight of a point does not
            depend on K and on how many objects are labelled. Not the paper's.

    Raises:
        ValueError: a grouping that predicts no points, or a training batch whose images hold none, known or not;
            without them validation gives 0.
    """

    def __init__(self, matched_only: bool = False) -> None:
        super().__init__()
        self.matched_only = matched_only

    def forward(self, output: Output, batch: Batch) -> Tensor:
        notes, hints = output.slots.notes, batch.hints
        if "points" not in notes:
            raise ValueError("PointLoss needs a grouping that predicts points: give SlotAttention a PointGuidance.")
        points = notes["points"]  # (B T K 2)
        if hints is None:
            if self.training:
                raise ValueError(
                    "PointLoss was given a training batch without points: let ocl.data.weak_points.WeakPoints add them."
                )
            return points.new_zeros(())
        match = notes.get("point_match")  # (B T K)
        if match is None:
            first = match_points(points[:, 0], hints.places, hints.known, output.slots.valid)
            match = first[:, None].expand(points.shape[:3])
        # Where nothing is matched, a point's partner is itself: no distance, no gradient, whatever `places` holds.
        partners = replace_matched(points.detach(), hints.places, match)
        squared = (points - partners).square().sum(dim=(0, 2, 3))  # (T)
        if self.matched_only:
            terms = (match >= 0).sum(dim=(0, 2)) * 2
        else:
            terms = hints.known.any(dim=1).sum() * (points.shape[2] * 2)
        loss: Tensor = (squared / terms.clamp(min=1)).sum()
        return loss

"""Intermediate point predictor and encoder of SLASH (Kim et al. 2023, arXiv 2303.17842): slots that say where."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.matching import match_points, replace_matched
from ocl.shapes import Hints


@dataclass
class PointTrace:
    """What the iterations of one forward pass leave: points (B K 2) of each, and which true point each slot got.

    hints: the true points of the images that have some; None where nobody knows any.
    valid: (B K) bool, slots that may get a true point; all where None.
    """

    hints: Hints | None
    valid: Tensor | None = None
    points: list[Tensor] = field(default_factory=list)
    matches: list[Tensor] = field(default_factory=list)

    def notes(self) -> dict[str, Tensor]:
        """ "points" (B T K 2) in [0, 1], and "point_match" (B T K) where true points were used, -1 for none."""
        found = {"points": self.points, "point_match": self.matches}
        return {name: torch.stack(steps, dim=1) for name, steps in found.items() if steps}


class PointGuidance(nn.Module):
    """Every iteration, each slot predicts a point and gets its code added, between the GRU and the residual MLP:

        p_k = sigmoid(MLP(LayerNorm(s_k))) - 1/2     widths D, D/2, D/4, 2
        s_k = s_k + MLP(p~_k)                        widths 2, D/4, D/2, D

    p~_k is p_k, except in training on images with known points: there the known points are matched to slots, one to
    one at the least total distance between p_k and the point, and a matched slot gets its true point instead. The
    assignment of the first iteration serves all. In evaluation mode hints change nothing.

    Matching leaves out what is not known, instead of giving it a place outside the image as the published code does:
    there such places decide who gets the known ones.

    Points are kept and matched as (x, y) in [0, 1], y pointing down; only the code is centred, as published. The
    initialisation of the two MLPs is not stated; theirs is the library's.

    Args:
        dim: slot width D, at least 4.
        rematch: True matches in every iteration anew (not published).
    """

    def __init__(self, dim: int, rematch: bool = False) -> None:
        super().__init__()
        if dim < 4:
            raise ValueError(f"point guidance needs slots of width 4 at least, got {dim}.")
        half, quarter = dim // 2, dim // 4
        self.rematch = rematch
        self.norm = nn.LayerNorm(dim, eps=1e-3)
        self.predictor = nn.Sequential(
            nn.Linear(dim, half), nn.ReLU(), nn.Linear(half, quarter), nn.ReLU(), nn.Linear(quarter, 2)
        )
        self.encoder = nn.Sequential(
            nn.Linear(2, quarter), nn.ReLU(), nn.Linear(quarter, half), nn.ReLU(), nn.Linear(half, dim)
        )
        glorot_(self)

    def forward(self, slots: Tensor, trace: PointTrace) -> Tensor:
        """slots (B K D) after the GRU -> (B K D); adds this iteration to `trace`."""
        logits = self.predictor(self.norm(slots))
        points = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()  # halves know 256 places
        trace.points.append(points)
        used = points
        if self.training and trace.hints is not None:
            if self.rematch or not trace.matches:
                match = match_points(points, trace.hints.places, trace.hints.known, trace.valid)
            else:
                match = trace.matches[0]
            trace.matches.append(match)
            used = replace_matched(points, trace.hints.places, match)
        code: Tensor = self.encoder((used - 0.5).to(slots.dtype))
        return slots + code

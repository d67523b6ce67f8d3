"""Soft position embedding of Slot Attention: four linear ramps through one linear layer, added to a feature map."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def position_ramps(height: int, width: int) -> Tensor:
    """(h w 4): y, x, 1 - y, 1 - x, each running linearly over [0, 1] from the first to the last cell."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([y, x, 1 - y, 1 - x], dim=-1)


class PositionEmbedding(nn.Module):
    """Linear(4 -> C) of `position_ramps`, for one grid size. `forward()` gives (C h w)."""

    ramps: Tensor

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, channels)
        self.grid = grid
        self.register_buffer("ramps", position_ramps(*grid), persistent=False)

    def forward(self) -> Tensor:
        embedding: Tensor = self.linear(self.ramps)
        return embedding.movedim(-1, 0)

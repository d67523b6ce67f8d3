"""Orders in which an autoregressive decoder may read a grid of patches (SPOT, Kakogeorgiou et al. 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

NUM_ORDERS = 9


def patch_orders(grid: tuple[int, int]) -> Tensor:
    """(9 N) int64: row by row and column by column, each from all four corners, and a spiral out of the middle.

    Entry [p, i] is the raster index of the patch that order p reads as its i-th; order 0 is the raster order. The
    spiral runs backwards along the one that enters clockwise from the top right corner.
    """
    raster = torch.arange(grid[0] * grid[1]).view(grid)
    flipped = [raster.flip(sides) for sides in ((), (0,), (1,), (0, 1))]
    lines = [view.flatten() for view in flipped] + [view.mT.flatten() for view in flipped]
    return torch.stack([*lines, _spiral(raster)])


def inverse_orders(orders: Tensor) -> Tensor:
    """(P N): entry [p, n] is when order p reads patch n, so that x[orders[p]][inverse[p]] is x."""
    return orders.argsort(dim=1)


def _spiral(raster: Tensor) -> Tensor:
    inward, rest = [], raster.rot90()  # the right column, from the top, is the first row
    while rest.numel():
        inward.append(rest[0])
        rest = rest[1:].rot90()
    return torch.cat(inward).flip(0)

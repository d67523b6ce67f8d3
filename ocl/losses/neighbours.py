"""Sums over alike features, without a matrix over pairs of features ever being whole or saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 2**22
"""Pairs of features held at a time, over the whole batch: 16 MiB in float32."""


def row_blocks(images: int, tokens: int, rows: int | None = None) -> Iterator[slice]:
    """0..N in slices of `rows` rows of an (N N) matrix per image; None: as many as `BLOCK` allows, at least 16."""
    if rows is None:
        rows = max(16, BLOCK // (images * tokens))
    return (slice(start, min(start + rows, tokens)) for start in range(0, tokens, rows))


def alike(directions: Tensor, rows: slice, columns: slice, threshold: float) -> Tensor:
    """(B rows columns) of 1 where the cosine exceeds the threshold or row and column are the same token, else 0."""
    similar = (directions[:, rows] @ directions[:, columns].mT).gt_(threshold)
    if rows == columns:
        similar.diagonal(dim1=1, dim2=2).fill_(1)
    return similar


def sum_over_alike(values: Tensor, directions: Tensor, threshold: float, rows: int | None = None) -> Tensor:
    """values (B K N) -> (B K N): at j the sum of values over N_j = {j} and all j' with cosine above the threshold.

    directions: (B N G), unit vectors, constants.
    """
    summed: Tensor = _SumOverAlike.apply(values, directions, threshold, rows)  # type: ignore[no-untyped-call]
    return summed


class _SumOverAlike(torch.autograd.Function):
    """values M with M symmetric, built by blocks: each pair of blocks once, and again in the backward pass, which is
    the same product."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, directions: Tensor, threshold: float, rows: int | None) -> Tensor:
        ctx.save_for_backward(directions)
        ctx.threshold, ctx.rows = threshold, rows
        images, _, tokens = values.shape
        if rows is None:
            rows = max(16, int((BLOCK / images) ** 0.5))  # blocks are square here
        blocks = list(row_blocks(images, tokens, rows))
        summed = torch.zeros_like(values)
        with torch.autocast(values.device.type, enabled=False):
            for index, mine in enumerate(blocks):
                for theirs in blocks[index:]:
                    similar = alike(directions, mine, theirs, threshold).to(values.dtype)
                    summed[:, :, theirs] += values[:, :, mine] @ similar
                    if mine != theirs:
                        summed[:, :, mine] += values[:, :, theirs] @ similar.mT
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (directions,) = ctx.saved_tensors
        return sum_over_alike(gradient, directions, ctx.threshold, ctx.rows), None, None, None

"""Sums over alike features, without a matrix over pairs of features ever being whole; it is kept where it is small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

CPU_BLOCK, GPU_BLOCK = 2**19, 2**25
"""Pairs of features held at a time, over the whole batch: 2 MiB in float32, which a cache holds, or 128 MiB."""
CPU_KEPT = 2**22
"""Pairs whose blocks wait for the backward pass, 16 MiB in float32: building them again takes longer."""


def row_blocks(tokens: Tensor) -> list[slice]:
    """Rows of (B N N), of which one block is held at a time, for (B ... N); at least 16 rows."""
    images, number = tokens.shape[0], tokens.shape[-1]
    return _slices(number, _block(tokens) // (images * number))


def square_blocks(tokens: Tensor) -> list[slice]:
    """Rows or columns of (B N N), of which one square is held at a time, for (B ... N); at least 16 rows."""
    return _slices(tokens.shape[-1], math.isqrt(_block(tokens) // tokens.shape[0]))


def _block(tokens: Tensor) -> int:
    return CPU_BLOCK if tokens.device.type == "cpu" else GPU_BLOCK


def _slices(number: int, rows: int) -> list[slice]:
    """0..number in even slices of at most `rows`."""
    rows = math.ceil(number / math.ceil(number / max(16, rows)))
    return [slice(start, min(start + rows, number)) for start in range(0, number, rows)]


def alike(directions: Tensor, rows: slice, columns: slice, threshold: float) -> Tensor:
    """(B rows columns) of 1 where the cosine exceeds the threshold or row and column are the same token, else 0."""
    similar = (directions[:, rows] @ directions[:, columns].mT).gt_(threshold)
    if rows == columns:
        similar.diagonal(dim1=1, dim2=2).fill_(1)
    return similar


def sum_over_alike(values: Tensor, directions: Tensor, threshold: float) -> Tensor:
    """values (B K N) -> (B K N): at j the sum of values over N_j = {j} and all j' with cosine above the threshold.

    directions: (B N G), unit vectors, constants.
    """
    summed: Tensor = _SumOverAlike.apply(values, directions, threshold)  # type: ignore[no-untyped-call]
    return summed


class _SumOverAlike(torch.autograd.Function):
    """values M, where M is symmetric: every pair of blocks is built once. The backward pass is the same product, with
    the blocks of the forward pass where those are small, else with blocks that are built again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, directions: Tensor, threshold: float) -> Tensor:
        ctx.threshold = threshold
        ctx.kept = values.shape[0] * values.shape[-1] ** 2 <= (CPU_KEPT if values.device.type == "cpu" else GPU_BLOCK)
        blocks = _alike_blocks(directions, threshold, values.dtype)
        if ctx.kept:
            blocks = list(blocks)
        ctx.save_for_backward(*blocks if ctx.kept else [directions])
        return _multiply(values, blocks)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.kept:
            return _multiply(gradient, ctx.saved_tensors), None, None
        (directions,) = ctx.saved_tensors
        return sum_over_alike(gradient, directions, ctx.threshold), None, None


def _pairs(tokens: Tensor) -> list[tuple[slice, slice]]:
    """Blocks on and above the diagonal of (B N N), for (B ... N)."""
    blocks = square_blocks(tokens)
    return [(mine, theirs) for index, mine in enumerate(blocks) for theirs in blocks[index:]]


def _alike_blocks(directions: Tensor, threshold: float, dtype: torch.dtype) -> Iterable[Tensor]:
    """M in the blocks of `_pairs`, one at a time."""
    with torch.autocast(directions.device.type, enabled=False):
        for mine, theirs in _pairs(directions.mT):
            yield alike(directions, mine, theirs, threshold).to(dtype)


def _multiply(values: Tensor, blocks: Iterable[Tensor]) -> Tensor:
    """values M (B K N) from M in the blocks of `_pairs`."""
    summed = torch.zeros_like(values)
    with torch.autocast(values.device.type, enabled=False):
        for (mine, theirs), similar in zip(_pairs(values), blocks, strict=True):
            summed[:, :, theirs] += values[:, :, mine] @ similar
            if mine != theirs:
                summed[:, :, mine] += values[:, :, theirs] @ similar.mT
    return summed

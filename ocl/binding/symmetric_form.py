"""x^T M y of all pairs of patches with a symmetric M, from one half of M: the other half would say the same again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDTH, MOST = 48, 8
"""Least width and largest number of the bands that M is cut into: narrower products are slower than what they save."""


def symmetric_form(tokens: Tensor, matrix: Tensor) -> Tensor:
    """tokens (L B n D), symmetric matrix (L D D) -> (L B n n), equal to its own transpose without any rounding.

    With M = U + U^T, U block-wise upper triangular with half of M's diagonal blocks, the pairs are Y + Y^T, where
    Y = X U X^T. The gradient X^T G X is symmetric, and only the same half of it is computed. With many bands both save
    almost half of the multiplications.
    """
    pairs: Tensor = _SymmetricForm.apply(tokens, matrix)  # type: ignore[no-untyped-call]
    return pairs


class _SymmetricForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, matrix: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, matrix)
        rows = tokens.flatten(1, 2)  # (L B*n D)
        keys = torch.empty_like(rows)
        for first, last in _bands(matrix):
            column = matrix[:, :last, first:last].clone()
            column[:, first:last] *= 0.5
            torch.bmm(rows[:, :, :last], column, out=keys[:, :, first:last])
        half = keys.view_as(tokens) @ tokens.mT
        return half + half.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        tokens, matrix = ctx.saved_tensors
        moved = (((gradient + gradient.mT) / 2) @ tokens).flatten(1, 2)  # (L B*n D)
        rows, found = tokens.flatten(1, 2), torch.empty_like(matrix)
        for first, last in _bands(matrix):
            column = torch.bmm(rows[:, :, :last].mT, moved[:, :, first:last])
            found[:, :last, first:last] = column
            found[:, first:last, :first] = column[:, :first].mT
        of_tokens = 2 * torch.bmm(moved, matrix).view_as(tokens) if ctx.needs_input_grad[0] else None
        return of_tokens, found


def _bands(matrix: Tensor) -> Iterator[tuple[int, int]]:
    """The columns (first, last) of every band."""
    size = matrix.shape[-1]
    count = min(MOST, max(1, size // WIDTH))
    for band in range(count):
        yield band * size // count, (band + 1) * size // count

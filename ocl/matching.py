"""Optimal one-to-one assignment for a batch of cost tables."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


class Assignment(NamedTuple):
    """Which column each row got.

    columns: (B R) int64, 0 where the row stayed unmatched, so that it is always safe to gather with.
    matched: (B R) bool.
    """

    columns: Tensor
    matched: Tensor


def optimal_assignment(cost: Tensor, row_valid: Tensor | None = None, column_valid: Tensor | None = None) -> Assignment:
    """Match rows to columns one to one at the least total cost, as many pairs as both sides allow.

    Rows and columns that are not valid take no part (they are cut out, not given a large cost, so they cannot change
    who gets whom), and their costs may hold anything. Negate the table to maximise.

    Args:
        cost: (B R C), R and C need not be equal.
        row_valid: (B R) bool, all rows where None.
        column_valid: (B C) bool, all columns where None.

    Returns:
        An `Assignment` on the device of `cost`; in each table min(valid rows, valid columns) rows are matched.

    Raises:
        ValueError: a wrong shape, or a cost between valid entries that is NaN or infinite.
    """
    if cost.ndim != 3:
        raise ValueError(f"cost must be (B, R, C), got {tuple(cost.shape)}.")
    rows = _validity(row_valid, cost.shape[:2], "row_valid")
    columns = _validity(column_valid, (cost.shape[0], cost.shape[2]), "column_valid")
    table = cost.detach().cpu().double().numpy()
    finite = np.isfinite(table) | ~(rows[:, :, None] & columns[:, None, :])
    if not finite.all():
        item = int(np.flatnonzero(~finite.all(axis=(1, 2)))[0])
        raise ValueError(f"cost must be finite between valid rows and columns, but table {item} holds NaN or infinity.")

    chosen = np.zeros(cost.shape[:2], dtype=np.int64)
    matched = np.zeros(cost.shape[:2], dtype=np.bool_)
    for item in range(len(table)):
        row_of, column_of = np.flatnonzero(rows[item]), np.flatnonzero(columns[item])
        row, column = linear_sum_assignment(table[item][row_of][:, column_of])
        chosen[item, row_of[row]] = column_of[column]
        matched[item, row_of[row]] = True
    return Assignment(torch.from_numpy(chosen).to(cost.device), torch.from_numpy(matched).to(cost.device))


def _validity(
    valid: Tensor | None, shape: tuple[int, ...], name: str
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    if valid is None:
        return np.ones(shape, dtype=np.bool_)
    if tuple(valid.shape) != tuple(shape) or valid.dtype != torch.bool:
        raise ValueError(f"{name} must be bool {tuple(shape)}, got {valid.dtype} {tuple(valid.shape)}.")
    return np.asarray(valid.cpu().numpy())

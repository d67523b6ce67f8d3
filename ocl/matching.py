"""Optimal one-to-one assignment for a batch of cost tables, and of points to places."""

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


def match_points(points: Tensor, places: Tensor, known: Tensor, valid: Tensor | None = None) -> Tensor:
    """Known places to points, one to one at the least total distance, as many as there are; also under a compiler.

    Args:
        points: (B K 2) of the slots, as (x, y) in [0, 1].
        places: (B M 2) of the objects, likewise; those that are not known may hold anything.
        known: (B M) bool.
        valid: (B K) bool, points that may be matched; all where None.

    Returns:
        (B K) int64: the column of `places` that each point got, -1 for none.

    Raises:
        ValueError: a wrong shape or type, a point that is not finite, or a known place that is not in the image.
    """
    if places.ndim != 3 or places.shape[0] != points.shape[0] or places.shape[2] != 2:
        raise ValueError(f"places must be ({points.shape[0]}, M, 2), got {tuple(places.shape)}.")
    if known.shape != places.shape[:2] or known.dtype != torch.bool:
        raise ValueError(f"known must be bool {tuple(places.shape[:2])}, got {known.dtype} {tuple(known.shape)}.")
    match: Tensor = _match_points(points.detach(), places.detach(), known, valid)
    return match


def replace_matched(points: Tensor, places: Tensor, match: Tensor) -> Tensor:
    """points (B ... K 2) with the place (B M 2) that each was matched to, `match` (B ... K), in its stead."""
    chosen = match.clamp(min=0).flatten(1)[..., None].expand(-1, -1, 2)
    found = places.to(points.dtype).gather(1, chosen).view_as(points) if places.shape[1] else points
    return torch.where(match[..., None] >= 0, found, points)


@torch.library.custom_op("ocl::match_points", mutates_args=())
def _match_points(points: Tensor, places: Tensor, known: Tensor, valid: Tensor | None) -> Tensor:
    """One opaque operation, because no compiler can trace scipy."""
    outside = known & ~((places >= 0) & (places <= 1)).all(dim=-1)
    if bool(outside.any()):
        image, column = outside.nonzero()[0].tolist()
        raise ValueError(
            f"place {column} of image {image} is known but lies at {places[image, column].tolist()}; it must be "
            f"(x, y) in [0, 1], or not known."
        )
    distance = (points.double()[:, :, None] - places.double()[:, None]).norm(dim=-1)  # (B K M)
    columns, matched = optimal_assignment(distance, valid, known)
    return columns.masked_fill(~matched, -1)


@_match_points.register_fake
def _(points: Tensor, places: Tensor, known: Tensor, valid: Tensor | None) -> Tensor:
    return points.new_empty(points.shape[:2], dtype=torch.int64)


def _validity(
    valid: Tensor | None, shape: tuple[int, ...], name: str
) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    if valid is None:
        return np.ones(shape, dtype=np.bool_)
    if tuple(valid.shape) != tuple(shape) or valid.dtype != torch.bool:
        raise ValueError(f"{name} must be bool {tuple(shape)}, got {valid.dtype} {tuple(valid.shape)}.")
    return np.asarray(valid.cpu().numpy())

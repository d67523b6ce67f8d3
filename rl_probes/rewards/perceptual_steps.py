"""The steps of a task found in a few demonstrations, and the features that tell them apart (Unsupervised Perceptual
Rewards, 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def find_steps(features: ArrayLike, steps: int, min_frames: int = 3) -> list[int]:
    """Split a demonstration, features (T F), into contiguous steps within which the features change least.

    Minimises the mean over all frames of the standard deviation, averaged over features, of the step that a frame
    belongs to. Exact, by dynamic programming over the ends of steps, where the source searches split points
    recursively. That every frame counts alike, and not every step, is our reading.

    Returns:
        The frame after the last one of each step, (steps); the last is T.

    Raises:
        ValueError: features that are not (T F) and finite, or fewer frames than `steps` times `min_frames`.
    """
    table = np.asarray(features, np.float64)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"the features of a demonstration must be finite (T, F), got {table.shape}.")
    count = len(table)
    if steps < 1 or min_frames < 1 or count < steps * min_frames:
        raise ValueError(f"{count} frames cannot be split into {steps} steps of at least {min_frames} frames.")
    cost = _costs(table, min_frames)
    best = cost[0]  # (T+1) of the frames up to t as one step
    froms = []
    for _ in range(1, steps):
        total = best[:, None] + cost  # (T+1 T+1): the last step begins at the row and ends at the column
        froms.append(total.argmin(0))
        best = total.min(0)
    ends = [count]
    for origin in reversed(froms):
        ends.append(int(origin[ends[-1]]))
    return ends[::-1]


def feature_scores(features: ArrayLike, member: ArrayLike, alpha: float = 5.0) -> Array:
    """How well each feature tells the frames of a step from all others: alpha * |mu+ - mu-| - (sigma+ + sigma-).

    Args:
        features: (T F), standardised over all frames of all demonstrations.
        member: (T) bool, frames of the step.
        alpha: as the source has it.

    Returns:
        (F), higher is better.

    Raises:
        ValueError: no frame inside the step, or none outside.
    """
    table, inside = np.asarray(features, np.float64), np.asarray(member, bool)
    if inside.all() or not inside.any():
        raise ValueError("a step needs frames inside and outside of it.")
    here, there = table[inside], table[~inside]
    scores: Array = alpha * np.abs(here.mean(0) - there.mean(0)) - (here.std(0) + there.std(0))
    return scores


def _costs(table: Array, min_frames: int) -> Array:
    """(T F) -> (T+1 T+1): the number of frames start..end-1 times the mean over features of their standard deviation,
    infinite where there are fewer than `min_frames`."""
    count = len(table)
    centred = table - table.mean(0)  # sums of squares lose the fewest digits about the mean
    sums = np.concatenate([np.zeros((1, table.shape[1])), centred.cumsum(0)])
    squares = np.concatenate([np.zeros((1, table.shape[1])), (centred**2).cumsum(0)])
    cost = np.full((count + 1, count + 1), np.inf)
    for start in range(count - min_frames + 1):
        ends = np.arange(start + min_frames, count + 1)
        frames = (ends - start)[:, None]
        mean = (sums[ends] - sums[start]) / frames
        variance = (squares[ends] - squares[start]) / frames - mean**2
        cost[start, ends] = (ends - start) * np.sqrt(variance.clip(min=0.0)).mean(1)
    return cost

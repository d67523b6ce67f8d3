"""Stage labels of demonstrations and the weights they give to cloning (SARM with RA-BC, 2025).

A demonstration of stages 0..n-1 is marked by `ends` (n), the frame at which each stage is done; it starts at frame 0,
and every stage starts where the one before it ends. A frame's label is y = k + tau, stage and the share of it that is
over; its progress is P_k + share_k * tau, P_k the sum of the shares before k, so that the end of a stage is worth the
same in every demonstration, however long that took.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def stage_labels(ends: Sequence[int], frames: int) -> Array:
    """y (T) in [0, n] of a demonstration of T frames: k + (t - s_k) / (e_k - s_k); n after the last stage.

    `ends` = [T - 1] is the form for demonstrations without marks: one stage, linear in time.

    Raises:
        ValueError: ends that do not increase from 1 to at most T - 1.
    """
    marks = _marks(ends)
    if marks[-1] > frames - 1:
        raise ValueError(f"the last stage ends at frame {int(marks[-1])}, but the demonstration has {frames} frames.")
    return np.interp(np.arange(frames), marks, np.arange(len(marks)))


def mean_shares(demonstrations: Sequence[Sequence[int]]) -> Array:
    """The mean over demonstrations of each stage's share of the time, (n), summing to one.

    Raises:
        ValueError: no demonstration, different numbers of stages, or ends that do not increase.
    """
    if len({len(ends) for ends in demonstrations}) != 1:
        raise ValueError(f"every demonstration needs the same stages, got {[len(ends) for ends in demonstrations]}.")
    shares = [np.diff(marks) / marks[-1] for marks in map(_marks, demonstrations)]
    mean: Array = np.mean(shares, axis=0)
    return mean


def progress_of_labels(labels: ArrayLike, shares: ArrayLike) -> Array:
    """y (...) in [0, n] -> progress (...) in [0, 1], linear within every stage."""
    totals = _totals(shares)
    return np.interp(np.asarray(labels, np.float64), np.arange(len(totals)), totals)


def labels_of_progress(progress: ArrayLike, shares: ArrayLike) -> Array:
    """The inverse of `progress_of_labels`."""
    totals = _totals(shares)
    return np.interp(np.asarray(progress, np.float64), totals, np.arange(len(totals)))


def cloning_weights(gain: ArrayLike, threshold: float = 0.01, epsilon: float = 1e-6) -> Array:
    """RA-BC: how much an action chunk that gained this much progress (n) counts when it is cloned, (n) in [0, 1].

    w = 1 above `threshold`, 0 below zero, and clip((gain - (mu - 2 sigma)) / (4 sigma + epsilon), 0, 1) between, with
    mean mu and population deviation sigma of all gains. The threshold 0.01 was tuned for folding of about 90 seconds.

    Raises:
        ValueError: no gain, or one that is not finite.
    """
    gains = np.asarray(gain, np.float64)
    if not gains.size or not np.isfinite(gains).all():
        raise ValueError(f"cloning weights need finite gains in progress, got {gains.size} with NaN, infinity or none.")
    mean, deviation = gains.mean(), gains.std()
    soft = np.clip((gains - (mean - 2 * deviation)) / (4 * deviation + epsilon), 0.0, 1.0)
    return np.where(gains > threshold, 1.0, np.where(gains < 0, 0.0, soft))


def _marks(ends: Sequence[int]) -> Array:
    """ends (n) -> (n+1), from frame 0."""
    marks = np.array([0, *ends], np.float64)
    if len(marks) < 2 or (np.diff(marks) <= 0).any():
        raise ValueError(f"the ends of stages must increase from frame 1 on, got {list(ends)}.")
    return marks


def _totals(shares: ArrayLike) -> Array:
    """shares (n) -> (n+1), progress at the start of every stage and at the end."""
    each = np.asarray(shares, np.float64)
    if each.ndim != 1 or not (each > 0).all() or abs(each.sum() - 1) > 1e-6:
        raise ValueError(f"the shares of the stages must be positive with sum one, got {each.tolist()}.")
    totals = np.concatenate([[0.0], np.cumsum(each)])
    totals[-1] = 1.0
    return totals

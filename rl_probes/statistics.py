"""Aggregates over runs and tasks with honest intervals (Agarwal et al., NeurIPS 2021).

Scores are (R, T): R independently seeded runs of each of T tasks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Scores = NDArray[np.float64]
FEWEST_RUNS = 3


class Estimate(NamedTuple):
    """A point and its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean of what is left after dropping the lowest and the highest quarter (rounded down) of the last two axes
    together: (... R T) -> (...)."""
    values = np.asarray(scores, np.float64)
    values = np.sort(values.reshape(*values.shape[:-2], -1), axis=-1)
    count = values.shape[-1]
    dropped = count // 4
    return np.asarray(values[..., dropped : count - dropped].mean(axis=-1))


def mean(scores: ArrayLike) -> NDArray[np.float64]:
    """(... R T) -> (...)"""
    return np.asarray(np.asarray(scores, np.float64).mean(axis=(-2, -1)))


def improvement(first: Scores, second: Scores) -> NDArray[np.float64]:
    """P(first > second) + P(first = second) / 2 over all pairs of runs, averaged over tasks:
    (... R T), (... R' T) -> (...)."""
    difference = first[..., :, None, :] - second[..., None, :, :]  # (... R R' T)
    return np.asarray(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1)))


def with_interval(
    scores: ArrayLike,
    statistic: Callable[[Scores], NDArray[np.float64]] = interquartile_mean,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """`statistic` with its stratified bootstrap: runs are resampled within each task. (R,) counts as one task.

    Warns below three runs: an interval from two says nothing about a third.
    """
    values = _as_runs_by_tasks(scores)
    resampled = statistic(_resample(values, resamples, np.random.default_rng(seed)))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(values)), float(low), float(high))


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Estimate:
    """How likely a run of `first` beats a run of `second` on the same task (ties count half), averaged over tasks.

    Raises:
        ValueError: different tasks.
    """
    a, b = _as_runs_by_tasks(first), _as_runs_by_tasks(second)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"both need the same tasks, got {a.shape[1]} and {b.shape[1]}.")
    generator = np.random.default_rng(seed)
    resampled = improvement(_resample(a, resamples, generator), _resample(b, resamples, generator))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(improvement(a, b)), float(low), float(high))


def _as_runs_by_tasks(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"scores must be (runs, tasks) and not empty, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("scores contain NaN or infinity; a failed run counts with the score it reached.")
    if len(values) < FEWEST_RUNS:
        warnings.warn(
            f"an interval from {len(values)} run(s) is decoration: use at least {FEWEST_RUNS} seeds, better 5.",
            stacklevel=3,
        )
    return values


def _resample(values: Scores, resamples: int, generator: np.random.Generator) -> Scores:
    """(R T) -> (resamples R T), runs drawn with replacement within each task."""
    runs, tasks = values.shape
    drawn = generator.integers(0, runs, (resamples, runs, tasks))
    return values[drawn, np.arange(tasks)]

"""What a predicted potential gets right besides its values: order within trajectories, direction, calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

Correlation = Callable[[NDArray[Any], NDArray[Any]], float]


def per_trajectory(
    correlation: Correlation, first: NDArray[Any], second: NDArray[Any], episodes: NDArray[Any]
) -> tuple[NDArray[np.float64], int]:
    """A correlation of (n) with (n) inside every episode, and how many episodes were dropped because `second` (the
    truth) is constant there. A constant `first` correlates with nothing: 0."""
    found, dropped = [], 0
    for name in np.unique(episodes):
        x, y = first[episodes == name], second[episodes == name]
        if np.ptp(y) == 0:
            dropped += 1
        else:
            found.append(0.0 if np.ptp(x) == 0 else float(correlation(x, y)))
    return np.asarray(found), dropped


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Pearson's correlation of the ranks, tied values at their mean rank."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def kendall(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Kendall's tau-b: concordant less discordant pairs, over the pairs that are tied in neither."""
    return float(kendalltau(x, y).statistic)


def backwards(episodes: NDArray[Any]) -> NDArray[np.intp]:
    """Index (n) that plays every episode's frames backwards in place."""
    order = np.arange(len(episodes))
    for name in np.unique(episodes):
        frames = np.flatnonzero(episodes == name)
        order[frames] = frames[::-1]
    return order


def direction_hits(predicted: ArrayLike, true: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of n differences: whether the predicted one has the sign of the true one (n), half for a predicted zero, and
    which true ones are not zero (n); only those count."""
    guess, truth = np.sign(np.asarray(predicted, np.float64)), np.sign(np.asarray(true, np.float64))
    return np.where(guess == 0, 0.5, guess == truth), np.asarray(truth != 0)


def calibration_error(probability: ArrayLike, positive: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |mean probability - rate of positives| over bins of equal width, weighted by how many
    of the n fall in each (Guo et al., 2017, which leaves the number of bins open).

    Few samples per bin raise it: a perfect predictor of n events is not at 0.

    Raises:
        ValueError: lengths that differ, or a value that is no probability.
    """
    score, outcome = np.asarray(probability, np.float64), np.asarray(positive, np.float64)
    if score.ndim != 1 or score.shape != outcome.shape:
        raise ValueError(f"calibration needs two (n) arrays, got {score.shape} and {outcome.shape}.")
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("calibration needs probabilities in [0, 1]; this score is not one.")
    if not score.size:
        return float("nan")
    index = np.minimum((score * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=score - outcome, minlength=bins)
    return float(np.abs(gaps).sum() / score.size)

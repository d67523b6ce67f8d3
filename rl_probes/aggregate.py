"""Aggregates over two levels of seeds: several encoders of one kind, several agents on each of them.

Scores are (E, A, T): E encoders, A agents trained on each, T tasks. The bootstrap draws encoders with replacement, the
same for all tasks since all tasks share them, then agents within each drawn encoder and task (Agarwal et al., NeurIPS
2021, call it stratified where there is one level). With E = 1 an interval speaks of agents on that one encoder only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_probes.statistics import FEWEST_RUNS, Estimate, Scores, improvement, interquartile_mean

RESAMPLES, LEVEL = 2000, 0.95
Statistic = Callable[[Scores], NDArray[np.float64]]
"""(... R T) -> (...), R runs: `interquartile_mean`, `mean` and `optimality_gap` are."""


class Band(NamedTuple):
    """A function on a grid of P points and its pointwise percentile interval; each (P,)."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def optimality_gap(scores: ArrayLike) -> NDArray[np.float64]:
    """How far normalised scores fall short of 1 on average, runs beyond 1 counting as 1: (... R T) -> (...)."""
    return np.asarray(np.maximum(0.0, 1.0 - np.asarray(scores, np.float64)).mean(axis=(-2, -1)))


def fewest_seeds(shape: tuple[int, ...]) -> int:
    """Of scores (E, A, ...): the smaller of the levels that vary; 1 where neither does."""
    return min([count for count in shape[:2] if count > 1], default=1)


def estimate(
    scores: ArrayLike, statistic: Statistic = interquartile_mean, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """`statistic` of (E A) or (E A T) over all runs and tasks, with its interval.

    Warns where a level of seeds has fewer than three: see `fewest_seeds`.

    Raises:
        ValueError: another number of axes, no scores, NaN or infinity.
    """
    values = _scores(scores)
    drawn = statistic(_runs(_resample(values, resamples, np.random.default_rng(seed))))
    return Estimate(float(statistic(_runs(values))), *_ends(drawn))


def probability_of_improvement(
    first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """How likely a run of `first` (E A T) beats one of `second` (E' A' T) on the same task; ties count half.

    Raises:
        ValueError: different tasks, or bad scores as in `estimate`.
    """
    a, b = _scores(first), _scores(second)
    if a.shape[2] != b.shape[2]:
        raise ValueError(f"both need the same tasks, got {a.shape[2]} and {b.shape[2]}.")
    generator = np.random.default_rng(seed)
    drawn = improvement(_runs(_resample(a, resamples, generator)), _runs(_resample(b, resamples, generator)))
    return Estimate(float(improvement(_runs(a), _runs(b))), *_ends(drawn))


def paired_difference(first: ArrayLike, second: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean score of `first` (E A N) minus that of `second` (E' A' N) on the same N episodes.

    Encoders and agents are drawn for each on their own, episodes for both together, so that what makes an episode easy
    cancels.

    Raises:
        ValueError: different numbers of episodes, or bad scores as in `estimate`.
    """
    a, b = _scores(first), _scores(second)
    if a.shape[2] != b.shape[2]:
        raise ValueError(f"both must have played the same episodes, got {a.shape[2]} and {b.shape[2]}.")
    generator = np.random.default_rng(seed)
    count = a.shape[2]
    episodes = generator.multinomial(count, np.full(count, 1 / count), resamples) / count  # (S N), rows sum to one
    means = _mean_weights(a, resamples, generator) @ _runs(a) - _mean_weights(b, resamples, generator) @ _runs(b)
    return Estimate(float(a.mean() - b.mean()), *_ends((means * episodes).sum(axis=1)))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Band:
    """The share of runs (E A T) that score more than each of P thresholds, averaged over tasks."""
    values, levels = _scores(scores), np.asarray(thresholds, np.float64)
    drawn = _runs(_resample(values, resamples, np.random.default_rng(seed)))
    shares = np.stack([(drawn > level).mean(axis=(1, 2)) for level in levels], axis=1)  # (S P)
    return _band(np.array([(values > level).mean() for level in levels]), shares)


def learning_curve(curves: ArrayLike, *, resamples: int = RESAMPLES // 2, seed: int = 0) -> Band:
    """The interquartile mean over runs at every point of (E A P). Whole curves are drawn, since a run is one curve."""
    values = _scores(curves)
    encoders, agents, points = values.shape
    generator = np.random.default_rng(seed)
    encoder = generator.integers(0, encoders, (resamples, encoders, 1))
    drawn = values[encoder, generator.integers(0, agents, (resamples, encoders, agents))]  # (S E A P)
    runs = drawn.reshape(resamples, -1, points).transpose(0, 2, 1)[..., None]  # (S P R 1)
    return _band(interquartile_mean(_runs(values).T[..., None]), interquartile_mean(runs))


def steps_to(steps: ArrayLike, curves: ArrayLike, level: float) -> float:
    """Median over runs (R P) of the first of `steps` (P,) at which a curve reaches `level`; infinity where half of the
    runs or more never do. NaN in a curve is below every level."""
    reached = np.asarray(curves, np.float64) >= level
    first = np.where(reached.any(axis=1), np.asarray(steps, np.float64)[reached.argmax(axis=1)], np.inf)
    low, high = np.sort(first)[[(len(first) - 1) // 2, len(first) // 2]]
    return float("inf") if np.isinf(high) else float((low + high) / 2)


def _scores(scores: ArrayLike) -> Scores:
    values = np.asarray(scores, np.float64)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"scores must be (encoders, agents, tasks) and not empty, got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("scores contain NaN or infinity; a failed run counts with the score it reached.")
    if fewest_seeds(values.shape) < FEWEST_RUNS:
        encoders, agents = values.shape[:2]
        warnings.warn(
            f"an interval from {encoders} encoder seed(s) x {agents} agent seed(s) is decoration: use at least "
            f"{FEWEST_RUNS} of what varies, better 5.",
            stacklevel=3,
        )
    return values


def _resample(values: Scores, resamples: int, generator: np.random.Generator) -> Scores:
    """(E A T) -> (S E A T)"""
    encoders, agents, tasks = values.shape
    encoder = generator.integers(0, encoders, (resamples, encoders, 1, 1))
    agent = generator.integers(0, agents, (resamples, encoders, agents, tasks))
    return values[encoder, agent, np.arange(tasks)]


def _mean_weights(values: Scores, resamples: int, generator: np.random.Generator) -> Scores:
    """(S R): how often each run is in the resample, of all runs there; one draw for all episodes, which share runs."""
    encoders, agents = values.shape[:2]
    encoder = generator.integers(0, encoders, (resamples, encoders, 1))
    run = encoder * agents + generator.integers(0, agents, (resamples, encoders, agents))
    run = run.reshape(resamples, -1)
    weights = np.zeros((resamples, encoders * agents))
    np.add.at(weights, (np.arange(resamples)[:, None], run), 1 / run.shape[1])
    return weights


def _runs(values: Scores) -> Scores:
    """(... E A T) -> (... E*A T)"""
    return values.reshape(*values.shape[:-3], -1, values.shape[-1])


def _ends(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _band(value: NDArray[np.float64], drawn: NDArray[np.float64]) -> Band:
    """value (P,), drawn (S P)"""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Band(value, low, high)

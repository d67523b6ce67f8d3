"""How far apart two rewards are: the Pearson distance and EPIC (Gleave et al., 2021), with intervals over episodes.

Both distances are sqrt((1 - rho) / 2) in [0, 1], rho a Pearson correlation: 0 for rewards equal up to a positive scale
and a shift, 1 for opposite ones, and sqrt(1/2) = 0.7071 for unrelated ones, so 0.7071 is chance, not 0.5. A constant
correlates with nothing and sits at chance by definition. rho = 1 - 2 * distance ** 2. Some published code leaves out
the 1/2: sqrt(1 - rho) runs to 1.4142 with chance at 1. Divide such a figure by sqrt(2) to compare it with these.

EPIC compares C(R) instead of R,

    C(R)(s, a, s') = R(s, a, s') + gamma E[R(s', A, S')] - E[R(s, A, S')] - gamma E[R(S, A, S')],

with A and S, S' independent, which no potential shaping with the same gamma can change.

Rewards of the next state alone need no canonicalisation: C(R) = R(s') - E R is R up to a shift, so EPIC is the Pearson
distance over next states, `pearson_distance(first, second)`. The same holds for rewards of s alone after reading them
at s'. Rewards of (s, a, s') do need it.

EPIC's independent S and S' make transitions that cannot happen; `rl_probes.dard` follows the dynamics instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHANCE = 0.5**0.5
"""The distance between unrelated rewards."""

Reward = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], NDArray[Any]]
"""(n ...) states, (n ...) actions, (n ...) next states -> (n) rewards."""


def pearson_distance(first: ArrayLike, second: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Distance between two samples of rewards on the same transitions, each (n), optionally weighted.

    Raises:
        ValueError: lengths differ, no sample, a value that is not finite, or weights that are negative or all zero.
    """
    x, y = _samples(first, second)
    w = np.full(x.size, 1.0 / x.size) if weights is None else distribution(weights, "weights", (x.size,))
    return float(_distance_of_moments((w @ _moments(x, y))[None])[0])


def pearson_distance_interval(
    first: ArrayLike,
    second: ArrayLike,
    episodes: ArrayLike,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float, float]:
    """The same, then the ends of its percentile bootstrap interval over whole episodes.

    `episodes` (n) names each sample's episode. Its steps depend on each other, so resampling steps would claim too
    narrow an interval.
    """
    x, y = _samples(first, second)
    groups, index = _groups(episodes, x.size)
    sums = np.zeros((groups, 6))
    np.add.at(sums, index, _moments(x, y))
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    low, high = np.quantile(_distance_of_moments(drawn @ sums), [(1 - level) / 2, (1 + level) / 2])
    return float(_distance_of_moments(sums.sum(0)[None])[0]), float(low), float(high)


def bootstrap(
    statistic: Callable[..., float], *arrays: NDArray[Any], resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """`statistic(*arrays)`, then the ends of its percentile bootstrap interval over the shared first axis (episodes).

    Draws in which the statistic is NaN are left out.
    """
    count = len(arrays[0])
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(resamples):
        chosen = generator.integers(count, size=count)
        draws.append(statistic(*(array[chosen] for array in arrays)))
    found = np.asarray(draws)[~np.isnan(draws)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]) if found.size else (np.nan, np.nan)
    return float(statistic(*arrays)), float(low), float(high)


def canonical_tabular(
    reward: ArrayLike,
    gamma: float,
    state_distribution: ArrayLike | None = None,
    action_distribution: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """C(R) of a table (S A S), exactly. The distributions of S (and S') and A are uniform where absent."""
    check_gamma(gamma)
    table = reward_table(reward)
    states, actions, _ = table.shape
    over_states = distribution(
        np.ones(states) if state_distribution is None else state_distribution, "states", (states,)
    )
    over_actions = distribution(
        np.ones(actions) if action_distribution is None else action_distribution, "actions", (actions,)
    )
    mean = np.einsum("sat,a,t->s", table, over_actions, over_states)  # (S) E[R(s, A, S')]
    canonical: NDArray[np.float64] = (
        table + gamma * mean[None, None, :] - mean[:, None, None] - gamma * (over_states @ mean)
    )
    return without_rounding(canonical, table)


def epic_tabular(
    first: ArrayLike,
    second: ArrayLike,
    gamma: float,
    *,
    state_distribution: ArrayLike | None = None,
    action_distribution: ArrayLike | None = None,
    coverage: ArrayLike | None = None,
) -> float:
    """EPIC between two tables (S A S), exactly; `coverage` (S A S) weighs the transitions, uniform where absent."""
    one = canonical_tabular(first, gamma, state_distribution, action_distribution)
    two = canonical_tabular(second, gamma, state_distribution, action_distribution)
    if one.shape != two.shape:
        raise ValueError(f"the tables must have the same shape, got {one.shape} and {two.shape}.")
    weights = None if coverage is None else np.asarray(coverage).ravel()
    return pearson_distance(one.ravel(), two.ravel(), weights)


def canonical_samples(
    reward: Reward,
    states: NDArray[Any],
    actions: NDArray[Any],
    next_states: NDArray[Any],
    pool_actions: NDArray[Any],
    pool_states: NDArray[Any],
    gamma: float,
) -> NDArray[np.float64]:
    """C(R) on n sampled transitions -> (n), its expectations taken over a pool of m pairs (A, S').

    states, next_states (n ...); actions (n ...); pool_actions, pool_states (m ...). The last expectation also takes S
    from the pool. Episode ends are ignored. Calls `reward` m + 1 times with at most 2 n + m rows.
    """
    check_gamma(gamma)
    if len(pool_actions) != len(pool_states) or not len(pool_states):
        raise ValueError(f"the pool needs as many actions as states, got {len(pool_actions)} and {len(pool_states)}.")
    mean = _means(reward, np.concatenate([states, next_states, pool_states]), pool_actions, pool_states)
    count = len(states)
    observed = np.asarray(reward(states, actions, next_states), np.float64)
    return _canonical(observed, mean[:count], mean[count : 2 * count], mean[2 * count :], gamma)


def epic_sampled(
    first: Reward,
    second: Reward,
    states: NDArray[Any],
    actions: NDArray[Any],
    next_states: NDArray[Any],
    gamma: float,
    *,
    pairs: int = 512,
    seed: int = 0,
) -> float:
    """EPIC between two rewards on sampled transitions (n ...), the coverage distribution.

    The pool of A and S' is `pairs` independent draws (fewer where the sample is smaller) from the sample's own actions
    and next states. Independence makes transitions that cannot happen, on which a learned reward extrapolates.
    """
    check_gamma(gamma)
    if pairs < 1 or not len(states):
        raise ValueError(f"EPIC needs at least one transition and one pair, got {len(states)} and {pairs}.")
    generator = np.random.default_rng(seed)
    pairs = min(pairs, len(states))
    pool_actions = actions[generator.choice(len(actions), pairs, replace=False)]
    pool = generator.choice(len(next_states), pairs, replace=False)
    origins, count = np.concatenate([states, next_states]), len(states)
    canonical = []
    for reward in (first, second):
        mean = _means(reward, origins, pool_actions, next_states[pool])
        observed = np.asarray(reward(states, actions, next_states), np.float64)
        # the pool's states are next states: their means are there already
        canonical.append(_canonical(observed, mean[:count], mean[count:], mean[count:][pool], gamma))
    return pearson_distance(*canonical)


def _means(
    reward: Reward, origins: NDArray[Any], pool_actions: NDArray[Any], pool_states: NDArray[Any]
) -> NDArray[np.float64]:
    """E[R(s, A, S')] of every s among `origins` (k ...) over the pool's pairs (A, S') -> (k).

    States that are whole numbers are asked about once each, however often they come: of two steps in a row the first
    leads to where the second begins, which halves the states of whole episodes.
    """
    if origins.ndim == 1 and np.issubdtype(origins.dtype, np.integer):
        different, back = np.unique(origins, return_inverse=True)
        if len(different) < len(origins):
            return _means(reward, different, pool_actions, pool_states)[back]
    mean = np.zeros(len(origins))
    for action, following in zip(pool_actions, pool_states, strict=True):
        mean += reward(origins, _repeat(action, len(origins)), _repeat(following, len(origins)))
    return mean / len(pool_states)


def _canonical(
    observed: NDArray[np.float64],
    of_states: NDArray[np.float64],
    of_next_states: NDArray[np.float64],
    of_pool: NDArray[np.float64],
    gamma: float,
) -> NDArray[np.float64]:
    """C(R) (n) of rewards (n), given E[R(s, A, S')] of s (n), of s' (n) and of the pool's S (m)."""
    canonical: NDArray[np.float64] = observed + gamma * of_next_states - of_states
    return without_rounding(canonical - gamma * float(of_pool.mean()), observed)


def _moments(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n) (n) -> (n 6): 1, x, y, xx, yy, xy of the standardised samples; their sums determine rho."""
    x, y = (without_rounding(v - v.mean(), v) / (np.ptp(v) or 1.0) for v in (x, y))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _distance_of_moments(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r 6) summed moments -> (r) distances."""
    mean = sums / sums[:, :1]
    var_x, var_y = mean[:, 3] - mean[:, 1] ** 2, mean[:, 4] - mean[:, 2] ** 2
    varies = (var_x > 1e-12) & (var_y > 1e-12)  # values span at most 1, so anything below is rounding
    scale = np.sqrt(np.where(varies, var_x * var_y, 1.0))
    rho = np.where(varies, (mean[:, 5] - mean[:, 1] * mean[:, 2]) / scale, 0.0)
    return np.asarray(np.sqrt((1.0 - np.clip(rho, -1.0, 1.0)) / 2.0))


def _samples(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not x.size:
        raise ValueError(f"two rewards on the same transitions must be two (n) arrays, got {x.shape} and {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("rewards must be finite; leave out the transitions whose reward is unknown.")
    return x, y


def without_rounding(canonical: NDArray[np.float64], reward: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero where only float64 rounding keeps C(R), or a reward less its mean, from it, as for a constant or pure
    shaping: the rounding would correlate with anything by accident instead of being at chance. NaN stays."""
    return np.zeros_like(canonical) if np.ptp(canonical) <= 1e-12 * np.abs(reward).max() else canonical


def reward_table(reward: ArrayLike) -> NDArray[np.float64]:
    """A table of rewards (S A S), refused if it is none."""
    table = np.asarray(reward, np.float64)
    if table.ndim != 3 or table.shape[0] != table.shape[2]:
        raise ValueError(f"a reward table must be (states, actions, states), got {table.shape}.")
    return table


def _groups(episodes: ArrayLike, count: int) -> tuple[int, NDArray[np.intp]]:
    names, index = np.unique(np.asarray(episodes), return_inverse=True)
    if index.shape != (count,):
        raise ValueError(f"episodes must name one episode per sample ({count}), got {index.shape}.")
    return len(names), index


def distribution(weights: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Non-negative weights of this shape, scaled to sum one; `name` is what a refusal calls them."""
    found = np.asarray(weights, np.float64)
    if found.shape != shape or not np.isfinite(found).all() or found.min() < 0 or found.sum() <= 0:
        raise ValueError(f"the distribution of {name} must be {shape} non-negative numbers that are not all zero.")
    return np.asarray(found / found.sum())


def check_gamma(gamma: float) -> None:
    """Raises ValueError for what is no discount."""
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}.")


def _repeat(value: NDArray[Any], count: int) -> NDArray[Any]:
    value = np.asarray(value)
    return np.broadcast_to(value, (count, *value.shape))

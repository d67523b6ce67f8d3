"""DARD (Wulfe et al., 2022): how far apart two rewards are on transitions that can happen.

The distance of `rl_probes.distances`, sqrt((1 - rho) / 2) in [0, 1] with chance at 0.7071, between

    C(R)(s, a, s') = R(s, a, s') + E[gamma R(s', A, S'') - R(s, A, S') - gamma R(S', A, S'')],

one A for all three terms, S' ~ T(s, A) and S'' ~ T(s', A), so only the step from S' to S'' may be impossible, where
EPIC reads a learned reward on arbitrary pairs of states. No potential shaping with the same gamma changes C(R). It
needs the transition kernel, or a simulator to draw from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_probes.distances import Reward, check_gamma, distribution, pearson_distance, reward_table, without_rounding

Transition = Callable[[NDArray[Any], NDArray[Any], np.random.Generator], NDArray[Any]]
"""(n ...) states, (n ...) actions, a generator -> (n ...) next states drawn from the dynamics."""


def canonical_dard_tabular(
    reward: ArrayLike, transition: ArrayLike, gamma: float, action_distribution: ArrayLike | None = None
) -> NDArray[np.float64]:
    """DARD's C(R) of a table (S A S) under the kernel T(s' | s, a) (S A S), exactly. A is uniform where absent.

    Raises:
        ValueError: a table that is not (S A S), or a kernel of another shape or whose rows are no distributions.
    """
    check_gamma(gamma)
    table, kernel = reward_table(reward), _kernel(transition)
    if table.shape != kernel.shape:
        raise ValueError(f"the kernel must have the shape of the reward {table.shape}, got {kernel.shape}.")
    actions = table.shape[1]
    over_actions = distribution(
        np.ones(actions) if action_distribution is None else action_distribution, "actions", (actions,)
    )
    mean = np.einsum("sat,sat,a->s", table, kernel, over_actions)  # (S) E[R(s, A, S')]
    by_action = kernel.transpose(1, 0, 2)  # (A S S)
    onward = by_action @ table.transpose(1, 0, 2) @ by_action.transpose(0, 2, 1)  # (A s s') E[R(S', a, S'')]
    beyond = np.tensordot(over_actions, onward, 1)  # (S S)
    canonical: NDArray[np.float64] = (
        table + gamma * mean[None, None, :] - mean[:, None, None] - gamma * beyond[:, None, :]
    )
    return without_rounding(canonical, table)


def dard_tabular(
    first: ArrayLike,
    second: ArrayLike,
    transition: ArrayLike,
    gamma: float,
    *,
    action_distribution: ArrayLike | None = None,
    coverage: ArrayLike | None = None,
) -> float:
    """DARD between two tables (S A S), exactly.

    `coverage` (S A S) weighs the transitions; where absent states and actions are uniform and next states follow
    `transition`, so that none that cannot happen counts.
    """
    one = canonical_dard_tabular(first, transition, gamma, action_distribution)
    two = canonical_dard_tabular(second, transition, gamma, action_distribution)
    weights = np.asarray(transition if coverage is None else coverage, np.float64).ravel()
    return pearson_distance(one.ravel(), two.ravel(), weights)


def dard_sampled(
    first: Reward,
    second: Reward,
    states: NDArray[Any],
    actions: NDArray[Any],
    next_states: NDArray[Any],
    transition: Transition,
    gamma: float,
    *,
    draws: int = 64,
    seed: int = 0,
) -> float:
    """DARD between two rewards on sampled transitions (n ...), the coverage distribution.

    Every transition's expectation is over `draws` of (A, S', S''), A from the sample's own actions. Both rewards see
    the same draws, so shaping cancels in each of them and not only on average. Calls each reward 3 draws + 1 times and
    `transition` 2 draws times, with n rows.
    """
    check_gamma(gamma)
    if draws < 1 or not len(states):
        raise ValueError(f"DARD needs at least one transition and one draw, got {len(states)} and {draws}.")
    generator = np.random.default_rng(seed)
    rewards = (first, second)
    expected = np.zeros((2, len(states)))
    for _ in range(draws):
        chosen = actions[generator.integers(len(actions), size=len(states))]
        following = transition(states, chosen, generator)
        after = transition(next_states, chosen, generator)
        for total, reward in zip(expected, rewards, strict=True):
            total += gamma * reward(next_states, chosen, after) - reward(states, chosen, following)
            total -= gamma * reward(following, chosen, after)
    observed = np.stack([np.asarray(reward(states, actions, next_states), np.float64) for reward in rewards])
    canonical = observed + expected / draws
    return pearson_distance(*map(without_rounding, canonical, observed))


def _kernel(transition: ArrayLike) -> NDArray[np.float64]:
    kernel = np.asarray(transition, np.float64)
    if not (kernel >= 0).all() or not np.allclose(kernel.sum(-1), 1.0, atol=1e-6):
        raise ValueError("every row of the transition kernel, over next states, must be non-negative and sum to one.")
    return kernel

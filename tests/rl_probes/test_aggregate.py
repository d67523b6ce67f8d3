"""Two levels of seeds: closed forms, exhaustive bootstraps and simulated coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rl_probes.aggregate import (
    estimate,
    fewest_seeds,
    learning_curve,
    optimality_gap,
    paired_difference,
    performance_profile,
    probability_of_improvement,
    steps_to,
)
from rl_probes.statistics import interquartile_mean, mean, with_interval


def quantiles(values: object) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return float(low), float(high)


def test_the_point_is_the_iqm_of_all_runs_and_tasks() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4, 5))
    assert estimate(scores).value == interquartile_mean(scores.reshape(12, 5))
    # Eight numbers: two dropped at each end leave 3, 4, 5, 6.
    assert estimate(np.array([[[1.0, 8.0], [3.0, 6.0], [-50.0, 99.0], [4.0, 5.0]]])).value == 4.5


def test_one_encoder_is_the_bootstrap_of_one_level() -> None:
    """Five runs, 3125 equally likely resamples."""
    scores = np.array([0.0, 1.0, 5.0, 6.0, 20.0])
    every = [mean(np.array(draw)[:, None]) for draw in product(scores, repeat=5)]
    found = estimate(scores[None], mean, resamples=40_000)
    assert found.value == scores.mean()
    assert (found.low, found.high) == pytest.approx(quantiles(every), abs=0.21)
    for found in (estimate(scores[None]), estimate(scores[:, None])):  # five agents of one encoder, or one each of five
        other = with_interval(scores, resamples=20_000)
        assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.5)


def test_both_levels_are_resampled() -> None:
    """Three encoders of three agents: 27 draws of encoders, each with 27^3 draws of agents, taken exhaustively."""
    scores = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 15.0], [30.0, 30.0, 36.0]])
    means = [np.array([np.mean(draw) for draw in product(row, repeat=3)]) for row in scores]  # 27 each
    every = [
        (means[a][:, None, None] + means[b][None, :, None] + means[c]).ravel() / 3
        for a, b, c in product(range(3), repeat=3)
    ]
    found = estimate(scores, mean, resamples=40_000)
    assert (found.low, found.high) == pytest.approx(quantiles(every), abs=0.2)
    with pytest.warns(UserWarning, match="decoration"):  # of agents that agree; one draw in 27 is of one encoder alone
        assert estimate([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], mean) == (1.0, 0.0, 2.0)


def test_all_tasks_share_the_drawn_encoders_but_not_the_agents() -> None:
    """Encoders that differ alike on 100 tasks keep the interval as wide as on one; agents that differ do not."""
    encoders = np.arange(5.0)[:, None, None] + np.zeros((5, 3, 100))
    one, many = estimate(encoders[..., :1], mean), estimate(encoders, mean)
    assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.1)
    agents = np.arange(5.0)[None, :, None] + np.zeros((1, 5, 100))
    one, many = estimate(agents[..., :1], mean), estimate(agents, mean)
    assert many.high - many.low < 0.15 * (one.high - one.low)


def coverage(draw: object, truth: float, trials: int = 300) -> float:
    covered = 0
    for trial in range(trials):
        found = estimate(draw(np.random.default_rng([7, trial])), resamples=500, seed=trial)  # type: ignore[operator]
        covered += found.low <= truth <= found.high
    return covered / trials


def test_coverage_of_four_tasks_by_ten_seeds() -> None:
    assert 0.88 <= coverage(lambda generator: generator.normal(0.5, 0.1, (1, 10, 4)), 0.5) <= 0.98
    assert 0.88 <= coverage(lambda generator: generator.normal(0.5, 0.1, (10, 1, 4)), 0.5) <= 0.98


def test_coverage_where_encoders_differ() -> None:
    """Ten encoders of four agents. Forty runs taken for independent would cover far less: the control."""

    def draw(generator: np.random.Generator) -> np.ndarray:
        return generator.normal(0.5, 0.1, (10, 1, 1)) + generator.normal(0.0, 0.05, (10, 4, 1))

    assert 0.88 <= coverage(draw, 0.5) <= 0.98
    assert coverage(lambda generator: draw(generator).reshape(1, 40, 1), 0.5) < 0.8


def test_probability_of_improvement_counts_pairs() -> None:
    first, second = np.array([[1.0, 2.0, 5.0]]), np.array([[1.0], [3.0], [4.0]])
    found = probability_of_improvement(first, second)
    assert found.value == pytest.approx((0.5 + 1 + 3) / 9)
    assert found.low < found.value < found.high
    assert probability_of_improvement([[7.0, 8.0, 9.0]], [[1.0, 2.0, 3.0]]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(np.zeros((3, 3, 2)), np.zeros((3, 3, 1)))


def test_paired_differences_cancel_the_difficulty_of_episodes() -> None:
    """Episodes differ by far more than the methods; the difference of 0.1 in every one has no width."""
    difficulty = np.random.default_rng(0).normal(0, 100, 50)
    first = np.broadcast_to(difficulty + 0.1, (3, 3, 50))
    second = np.broadcast_to(difficulty, (1, 5, 50))
    assert paired_difference(first, second) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="same episodes"):
        paired_difference(np.zeros((3, 3, 50)), np.zeros((3, 3, 49)))


def test_paired_differences_equal_the_exhaustive_bootstrap() -> None:
    """Three agents against one value, three episodes: 27 x 27 draws."""
    first = np.array([[[0.0, 1.0, 4.0], [2.0, 2.0, 9.0], [5.0, 7.0, 0.0]]])
    second = np.array([[[1.0, 1.0, 3.0]] * 3])
    every = [
        np.mean([np.mean([first[0, run, e] - second[0, 0, e] for run in runs]) for e in episodes])
        for runs in product(range(3), repeat=3)
        for episodes in product(range(3), repeat=3)
    ]
    found = paired_difference(first, second, resamples=40_000)
    assert found.value == pytest.approx(30 / 9 - 5 / 3)
    assert (found.low, found.high) == pytest.approx(quantiles(every), abs=0.12)


def test_profiles_and_gap_by_hand() -> None:
    scores = np.array([[0.2, 0.4, 0.6, 1.4]])
    profile = performance_profile(scores, [0.0, 0.4, 0.5, 2.0])
    np.testing.assert_array_equal(profile.value, [1.0, 0.5, 0.5, 0.0])
    assert (profile.low[0], profile.high[3]) == (1.0, 0.0)
    assert profile.low[2] <= 0.25
    assert optimality_gap(scores.T) == pytest.approx((0.8 + 0.6 + 0.4 + 0.0) / 4)


def test_a_learning_curve_is_the_iqm_at_every_point() -> None:
    curves = np.random.default_rng(0).random((2, 3, 7)).cumsum(axis=2)
    with pytest.warns(UserWarning, match="2 encoder"):
        band = learning_curve(curves)
    np.testing.assert_allclose(band.value, [interquartile_mean(curves[..., p].reshape(6, 1)) for p in range(7)])
    assert (band.low <= band.value).all()
    assert (band.value <= band.high).all()
    assert len(set(band.high - band.low)) == 7


def test_steps_to_a_level() -> None:
    steps = [10, 20, 30]
    curves = np.array([[0.5, 0.1, 0.1], [0.0, 0.6, 0.0], [np.nan, 0.2, 0.5]])
    assert steps_to(steps, curves, 0.5) == 20
    assert steps_to(steps, curves[:2], 0.5) == 15
    assert steps_to(steps, curves, 0.55) == float("inf")  # one of three
    assert steps_to(steps, curves[[0, 1, 2, 0]], 0.55) == float("inf")


def test_too_few_seeds_warn_and_bad_scores_are_refused() -> None:
    assert [fewest_seeds(shape) for shape in ((1, 1), (1, 5), (2, 5), (3, 1))] == [1, 5, 2, 3]
    with pytest.warns(UserWarning, match="1 encoder seed.* x 2 agent seed"):
        estimate([[0.1, 0.2]])
    with pytest.raises(ValueError, match="NaN"):
        estimate([[0.1, np.nan, 0.2]])
    with pytest.raises(ValueError, match="not empty"):
        estimate(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="encoders, agents, tasks"):
        estimate([0.1, 0.2, 0.3])

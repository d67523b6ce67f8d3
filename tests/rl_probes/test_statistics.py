"""Statistics against hand-computed cases, scipy, and a simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rl_probes.statistics import interquartile_mean, mean, probability_of_improvement, with_interval


def test_interquartile_mean_by_hand():
    assert interquartile_mean([[0.0], [1.0], [2.0], [100.0]]) == 1.5
    assert interquartile_mean([[1.0], [2.0], [3.0]]) == 2.0  # three: nothing to drop
    assert interquartile_mean([[0.0, 10.0], [1.0, 2.0], [3.0, 4.0], [5.0, -9.0]]) == (1 + 2 + 3 + 4) / 4  # runs x tasks
    np.testing.assert_array_equal(interquartile_mean([[[0.0], [4.0]], [[2.0], [2.0]]]), [2.0, 2.0])


def test_interquartile_mean_equals_scipy():
    generator = np.random.default_rng(0)
    for shape in ((5, 1), (10, 4), (7, 3), (50, 16)):
        scores = generator.normal(size=shape)
        assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)


def test_interval_resamples_within_tasks():
    """Runs of one task differ by nothing, tasks by much: a stratified interval has no width."""
    scores = np.tile([0.0, 100.0, 7.0], (5, 1))
    estimate = with_interval(scores, mean)
    assert estimate.low == estimate.high == estimate.value == pytest.approx(107 / 3)


def test_interval_equals_the_exhaustive_bootstrap():
    """Three runs have 27 equally likely resamples: the quantiles of their means are known."""
    scores = np.array([0.0, 1.0, 5.0])
    every = np.array(np.meshgrid(scores, scores, scores)).reshape(3, -1).mean(axis=0)
    estimate = with_interval(scores, mean, resamples=20_000, level=0.8)
    low, high = np.quantile(every, [0.1, 0.9])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, low, high))


def test_interval_coverage():
    """4 tasks of 10 runs, normal scores: the nominal 95% interval of the IQM covers the truth about that often."""
    generator = np.random.default_rng(1)
    trials = 300
    covered = 0
    for trial in range(trials):
        estimate = with_interval(generator.normal(0.5, 0.1, (10, 4)), resamples=500, seed=trial)
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.88 <= covered / trials <= 0.98


def test_probability_of_improvement_equals_mann_whitney():
    generator = np.random.default_rng(2)
    a, b = generator.integers(0, 6, (8, 3)), generator.integers(0, 5, (6, 3))  # with ties
    expected = np.mean([stats.mannwhitneyu(a[:, t], b[:, t]).statistic / 48 for t in range(3)])
    estimate = probability_of_improvement(a, b)
    assert estimate.value == pytest.approx(expected)
    assert estimate.low < expected < estimate.high
    sure = probability_of_improvement([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])
    assert sure == (1.0, 1.0, 1.0)


def test_fewer_than_three_runs_warn():
    with pytest.warns(UserWarning, match="at least 3 seeds"):
        with_interval([0.5, 0.6])


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        with_interval([0.1, np.nan, 0.2])
    with pytest.raises(ValueError, match="empty"):
        with_interval([])
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(np.zeros((3, 2)), np.zeros((3, 1)))

"""The monitor fires where the predicted return rises and the true one falls, and by chance as seldom as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rl_probes.closing_loop import HackingMonitor


def fed(predicted, true, **options):
    monitor = HackingMonitor(len(predicted), 0, **options)
    for one, other in zip(predicted, true, strict=True):
        monitor.add(float(one), float(other))
    return monitor


def test_intervals_are_welch_s():
    generator = np.random.default_rng(0)
    predicted, true = generator.normal(size=400), generator.random(400)
    (found,) = fed(predicted, true, confidence=0.975).changes()
    assert found.episodes == 400
    for change, values in ((found.predicted, predicted), (found.true, true)):
        test = stats.ttest_ind(values[200:], values[:200], equal_var=False)
        interval = test.confidence_interval(0.95)
        assert change.value == pytest.approx(values[200:].mean() - values[:200].mean())
        # the normal quantile in place of Student's: 1.960 for 1.966
        assert (change.low, change.high) == pytest.approx((interval.low, interval.high), rel=0.02)


@pytest.mark.parametrize(
    ("predicted", "true", "fires"),
    [(1, -1, True), (1, 0, False), (1, 1, False), (0, -1, False), (-1, -1, False), (-1, 1, False)],
)
def test_it_fires_only_where_the_two_part(predicted, true, fires):
    generator = np.random.default_rng(1)
    trend = np.linspace(0, 1, 500)
    monitor = fed(predicted * trend + generator.normal(size=500), true * trend + generator.normal(size=500))
    assert (monitor.check(1234) is not None) is fires
    assert monitor.fired_at == (1234 if fires else None)


def test_a_success_rate_that_falls_from_ten_percent_to_nothing_is_seen():
    generator = np.random.default_rng(2)
    true = (generator.random(1000) < np.repeat([0.1, 0.0], 500)).astype(float)
    assert fed(np.linspace(0, 1, 1000), true).check(1)
    assert not fed(np.linspace(0, 1, 1000), np.zeros(1000)).check(1)  # what is never paid cannot fall


def test_chance_passes_a_bound_as_often_as_its_confidence_says():
    """The predicted return rises for certain, the true one does not change: only its bound is left to chance."""
    generator = np.random.default_rng(3)
    falls = [generator.random(200) < 0.3 for _ in range(2000)]
    fired = sum(fed(np.arange(200), true, confidence=0.95).check(1) is not None for true in falls)
    low, high = stats.binom.interval(0.999, 2000, 0.05)
    assert low <= fired <= high


def test_what_happens_by_and_by_is_seen_over_more_episodes():
    """A success rate that falls from 0.3 to 0.1 over 8000 episodes: too little within any 500 of them."""
    generator = np.random.default_rng(4)
    true = generator.random(8000) < np.linspace(0.3, 0.1, 8000)
    short, long = HackingMonitor(500, 0), HackingMonitor(500, 4)
    fired = []
    for episode in range(8000):
        for monitor in (short, long):
            monitor.add(float(episode), float(true[episode]))
        if episode % 100 == 99:
            fired.append((short.check(episode), long.check(episode)))
    assert all(one is None for one, _ in fired)
    assert fired[-1][1].episodes in (4000, 8000)
    assert [one.episodes for one in long.changes()] == [500, 1000, 2000, 4000, 8000]


def test_only_the_last_window_counts_and_nothing_is_said_before_it_is_full():
    monitor = HackingMonitor(20, 0)
    for step in range(19):
        monitor.add(step, -step)
        assert monitor.check(step) is None
        assert monitor.changes() == []
    monitor.add(19, -19)
    assert monitor.check(19).true.value == -10
    for _ in range(40):
        monitor.add(0.0, 0.0)
    assert monitor.check(60) is None
    assert monitor.fired_at == 19  # the first time stays noted


def test_a_restored_monitor_goes_on():
    monitor, other = fed(np.arange(30), -np.arange(30)), HackingMonitor(30, 0)
    monitor.check(7)
    other.set_state(monitor.state())
    assert other.changes() == monitor.changes() != []
    assert other.fired_at == 7
    for one in (monitor, other):
        one.add(1.0, 2.0)
    assert other.changes() == monitor.changes()
    empty = HackingMonitor(30)
    empty.set_state(HackingMonitor(30).state())
    assert empty.changes() == []


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="even number"):
        HackingMonitor(21)
    with pytest.raises(ValueError, match="doublings at least 0"):
        HackingMonitor(20, -1)
    with pytest.raises(ValueError, match="confidence"):
        HackingMonitor(confidence=1.0)
    with pytest.raises(ValueError, match="finite"):
        HackingMonitor().add(float("nan"), 0.0)

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torchmetrics.functional.classification import binary_calibration_error

from rl_probes.evaluate_rewards import FURTHER_METRICS, METRICS, UNITS, evaluate_progress
from rl_probes.recording import Recording
from rl_probes.reward_metrics import backwards, calibration_error, direction_hits, kendall, per_trajectory, spearman


def walks(episodes=60, steps=30, seed=5):
    """Random walks of progress that rise twice as often as they fall, slots that show nothing."""
    rng = np.random.default_rng(seed)
    moves = rng.choice([0.02, 0.0, -0.02], p=[0.5, 0.25, 0.25], size=(episodes, steps))
    progress = np.clip(0.2 + moves.cumsum(1), 0, 1).astype(np.float32)
    step = np.tile(np.arange(steps, dtype=np.int32), episodes)
    count = episodes * steps
    return Recording(
        vectors=np.zeros((count, 2, 3), np.float16),
        valid=np.ones((count, 2), bool),
        action=np.zeros(count, np.int32),
        reward=np.zeros(count, np.float32),
        progress=progress.ravel(),
        terminated=np.zeros(count, bool),
        truncated=step == steps - 1,
        success=progress.ravel() > 0.35,
        episode=np.repeat(np.arange(episodes), steps),
        step=step,
    )


def test_kendall_is_the_difference_of_pairs_and_drops_what_cannot_be_ordered():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (2, 40)).astype(float)  # ties
    signs = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    untied = np.sqrt((x[:, None] != x).sum() * (y[:, None] != y).sum())
    assert kendall(np.array([1.0, 2.0]), np.array([0.5, 0.1])) == -1  # the shortest trajectory
    assert kendall(x, y) == pytest.approx(signs.sum() / untied, abs=1e-12)
    episodes = np.repeat(np.arange(4), 10)
    y[episodes == 1], x[episodes == 2] = 0.5, 0.5
    found, dropped = per_trajectory(kendall, x, y, episodes)
    assert dropped == 1
    expected = [kendalltau(x[episodes == e], y[episodes == e])[0] if e != 2 else 0.0 for e in (0, 2, 3)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_backwards_turns_every_episode_round_in_place():
    episodes = np.array([7, 7, 7, 2, 2, 9])
    np.testing.assert_array_equal(backwards(episodes), [2, 1, 0, 4, 3, 5])
    score, step = np.array([0.1, 0.2, 0.9, 0.3, 0.4, 0.0]), np.array([0, 1, 2, 0, 1, 0])
    forward, short = per_trajectory(spearman, score, step, episodes)
    backward, _ = per_trajectory(spearman, score[backwards(episodes)], step, episodes)
    assert short == 1
    np.testing.assert_allclose(forward, 1)
    np.testing.assert_allclose(backward, -1)


def test_direction_counts_signs_where_the_truth_moves():
    hits, counted = direction_hits([0.1, -0.1, 0.0, 5.0, 0.3], [1.0, 2.0, 3.0, 0.0, -1.0])
    np.testing.assert_array_equal(hits[counted], [1.0, 0.0, 0.5, 0.0])


def test_calibration_error_equals_torchmetrics():
    rng = np.random.default_rng(0)
    for count in (10, 100, 2000):
        score = rng.random(count)
        positive = rng.random(count) < score**2
        expected = binary_calibration_error(
            torch.from_numpy(score), torch.from_numpy(positive).long(), n_bins=10, norm="l1"
        )
        assert calibration_error(score, positive) == pytest.approx(float(expected), abs=1e-6)
    assert calibration_error([0.0, 1.0, 1.0], [False, True, True]) == 0
    assert calibration_error([0.25] * 4, [True, False, False, False]) == 0
    assert calibration_error([0.9] * 4, [False] * 4) == pytest.approx(0.9)
    assert np.isnan(calibration_error([], []))
    with pytest.raises(ValueError, match="probabilities"):
        calibration_error([0.5, np.nan], [True, False])
    with pytest.raises(ValueError, match="two"):
        calibration_error([0.5], [True, False])


def test_the_controls_are_where_theory_puts_them():
    recording = walks()
    rows = {row["name"].removeprefix("reward/"): row for row in evaluate_progress({}, recording, resamples=100)}
    value = {name: row["value"] for name, row in rows.items()}
    first, second = recording.pairs()
    change = recording.progress[second] - recording.progress[first]
    rising = (change > 0).sum() / (change != 0).sum()
    assert value["clock/order_forward"] == value["clock/order_backward"] == pytest.approx(1)
    assert value["clock/direction_accuracy"] == pytest.approx(rising)
    assert value["oracle/order_backward"] == pytest.approx(-value["oracle/order_forward"], abs=1e-12)
    assert value["oracle/order_forward"] > 0.3
    assert value["oracle/kendall"] == pytest.approx(1)
    assert value["oracle/direction_accuracy"] == 1
    assert value["constant/direction_accuracy"] == 0.5
    assert value["constant/kendall"] == value["constant/order_forward"] == value["constant/order_backward"] == 0
    for metric, chance in {"kendall": 0, "order_forward": 0, "order_backward": 0, "direction_accuracy": 0.5}.items():
        assert value[f"random/{metric}"] == pytest.approx(chance, abs=0.08)
    successes = recording.success[recording.finals()].mean()
    assert value["constant/success_calibration"] == pytest.approx(abs(0.5 - successes), abs=1e-12)
    assert "clock/success_calibration" not in value  # a time is no probability
    assert value["trajectories_without_order"] == 0
    assert {name.split("/")[1] for name in rows if "/" in name} == {*METRICS, *FURTHER_METRICS} == set(UNITS)
    low, high = rows["clock/direction_accuracy"]["low"], rows["clock/direction_accuracy"]["high"]
    assert low < rising < high

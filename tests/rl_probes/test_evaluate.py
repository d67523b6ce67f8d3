"""Evaluation on a fixed list of seeds: independent of how many environments play, and of who else plays."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rl_probes.controls import RandomAgent
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison, ObjectGoal
from rl_probes.evaluate import Episodes, evaluate, record_episode
from rl_probes.results import Result, reference_range, rows, table


def test_result_does_not_depend_on_the_number_of_environments():
    played = [evaluate(RandomAgent(4), SpriteWorld(ObjectGoal(), n, seed=n), range(100, 160)) for n in (1, 7, 64, 200)]
    for other in played[1:]:
        np.testing.assert_array_equal(other.returns, played[0].returns)
        np.testing.assert_array_equal(other.lengths, played[0].lengths)
        np.testing.assert_array_equal(other.success, played[0].success)


def test_order_of_seeds_only_orders_the_result():
    world = SpriteWorld(ObjectGoal(), 16)
    forward = evaluate(RandomAgent(4), world, np.arange(50))
    backward = evaluate(RandomAgent(4), world, np.arange(50)[::-1])
    np.testing.assert_array_equal(forward.lengths, backward.lengths[::-1])


def test_random_policy_is_at_chance():
    """Nothing distinguishes the target for it: a quarter of the episodes that touch one of the four objects."""
    played = evaluate(RandomAgent(4), SpriteWorld(ObjectComparison(), 512), range(10_000))
    touched = (played.lengths < 100).mean()
    assert played.success.mean() == pytest.approx(touched / 4, abs=3 * 0.0043)  # three standard errors
    assert played.success.mean() == pytest.approx(0.223, abs=0.03)  # the prototype's figure
    np.testing.assert_array_equal(played.success, played.returns)  # reward 1 exactly on success
    assert played.lengths.max() <= 100


def test_returns_and_lengths_equal_a_plain_loop():
    played = evaluate(RandomAgent(4), SpriteWorld(ObjectGoal(), 8), range(20))
    world = SpriteWorld(ObjectGoal(), 1)
    for position, seed in enumerate(range(20)):
        generator = np.random.default_rng([seed, 0xAC7])
        world.reset(np.array([0]), np.array([seed]))
        length, total = 0, 0.0
        while True:
            outcome = world.step(np.array([int(generator.random() * 4)]))
            length, total = length + 1, total + outcome.reward[0]
            if outcome.terminated[0] or outcome.truncated[0]:
                break
        assert (played.lengths[position], played.returns[position]) == (length, total)


def test_recording_repeats_the_evaluated_episode():
    world = SpriteWorld(ObjectGoal(), 4)
    played = evaluate(RandomAgent(4), world, [3, 9])
    for position, seed in enumerate((3, 9)):
        film = record_episode(RandomAgent(4), world, seed)
        assert film.images.shape == (played.lengths[position] + 1, 3, 64, 64)
        assert film.images.any(axis=(1, 2, 3)).all()
        assert len(film.actions) == played.lengths[position]
        assert (film.total_reward, film.success) == (played.returns[position], played.success[position])
    assert not (film.images[1:] == film.images[:-1]).all()


def test_bad_seeds_are_refused():
    world = SpriteWorld(ObjectGoal(), 2)
    for seeds in ([], [1, 1], [[1, 2]], [0.5, 1.5], [-1, 3]):
        with pytest.raises(ValueError, match="seeds"):
            evaluate(RandomAgent(4), world, seeds)


@pytest.mark.parametrize("count", [3, 9])
def test_an_agent_of_other_actions_is_refused(count):
    for play in (
        lambda agent, world: evaluate(agent, world, [1, 2]),
        lambda agent, world: record_episode(agent, world, 1),
    ):
        with pytest.raises(ValueError, match=f"chooses among {count} actions, SpriteWorld has 4"):
            play(RandomAgent(count), SpriteWorld(ObjectGoal(), 2))


def result(name: str, seed: int, success: list[float], fingerprint: str = "f" * 64, first: int = 0) -> Result:
    seeds = np.arange(first, first + len(success))
    episodes = Episodes(seeds, np.array(success), np.ones(len(success), int), np.array(success), "sampled")
    curve = [{"steps": s, "seconds": s / 500, "success": s / 1000} for s in (250, 500, 750)]
    return Result(name, fingerprint, (5, 13), "DeepSetPooling", seed, episodes, curve)


def shown(results: list[Result], width: int = 240, **options) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    described = {"task": "ObjectGoal", "split": "held-out seeds", "environment": "numpy 2"} | options
    console.print(table(results, **described))
    return console.export_text()


def test_table_holds_all_that_a_reader_needs_where_a_terminal_is_80_characters_wide():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = shown([result("Oracle", seed, [0.0] * seed + [1.0] * (10 - seed)) for seed in range(4)], width=80)
    assert "…" not in text
    for piece in (
        "ObjectGoal: success on held-out seeds",
        "Oracle ffffffff",
        "5 × 13",
        "DeepSetPooling",
        "frozen",
        "750",
        "0.850 ± 0.129",
        "0.850 [0.7",
        "10 episodes per agent, seeds 0 to 9, sampled actions",
        "not the best",
        "normalised",
        "500",  # steps per second, and steps to 50%
        "hours",
        "numpy 2",
    ):
        assert piece in text, piece
    assert "decoration" not in text


def test_agents_of_predicted_rewards_are_measured_by_those_of_the_true_one():
    """(R_predicted - R_random) / (R_true - R_random), the mean over seeds of each."""
    random = result("random", 0, [1.0] + [0.0] * 9, fingerprint="")
    true = [result("Oracle", seed, [1.0] * (6 + seed) + [0.0] * (4 - seed)) for seed in range(3)]
    predicted = [replace(result("Oracle", seed, [1.0] * 4 + [0.0] * 6), reward="PredictedReward") for seed in range(3)]
    found = reference_range(random, true)
    assert found == pytest.approx((0.1, 0.7))
    text = shown([random, *true, *predicted], score_range=found)
    assert "PredictedReward" in text
    assert f"{(0.4 - 0.1) / (0.7 - 0.1):.3f}" in text
    paid = [line.split()[0] for line in text.splitlines() if line.split()[:1] in (["true"], ["PredictedReward"])]
    assert paid == ["true", "true", "PredictedReward"], "what paid them sets runs apart"
    with pytest.raises(ValueError, match="no more than random play"):
        reference_range(true[0], [random])


def test_table_marks_intervals_of_too_few_seeds():
    results = [result("Oracle", seed, [1.0, 0.0]) for seed in range(2)]
    with pytest.warns(UserWarning, match="fewer than 3 seeds"):
        text = shown(results)
    assert "(!)" in text
    assert "decoration" in text


def test_table_refuses_to_mix_evaluation_seeds():
    with pytest.raises(ValueError, match="other seeds"):
        shown([result("A", 0, [1.0, 0.0]), result("B", 0, [1.0, 0.0], first=5)])
    with pytest.raises(ValueError, match="at least one"):
        shown([])


def test_a_run_twice_is_no_second_seed():
    with pytest.raises(ValueError, match="a seed twice"):
        shown([result("Oracle", seed, [1.0, 0.0]) for seed in (0, 1, 1)])


def test_agents_trained_with_other_settings_have_a_line_of_their_own():
    fast, slow = (
        [replace(result("Oracle", s, [v] * 4), settings=d) for s in range(3)] for v, d in ((1.0, "aa"), (0.0, "bb"))
    )
    text = shown([*fast, *slow])
    assert "settings aa" in text
    assert "settings bb" in text
    assert "1.000 [1.000, 1.000]" in text
    assert "0.000 [0.000, 0.000]" in text
    assert "settings" not in shown(fast)


def test_a_range_that_does_not_rise_is_refused():
    for bounds in ((1.0, 1.0), (1.0, 0.0), (0.0, float("nan"))):
        with pytest.raises(ValueError, match="score_range"):
            shown([result("Oracle", 0, [1.0])], score_range=bounds)


def test_rows_and_sample_efficiency():
    one = result("Oracle", 3, [1.0, 0.0, 1.0, 1.0])
    assert rows([one], "test") == [
        {"name": "agent/Oracle", "value": 0.75, "unit": "success rate", "seed": 3, "split": "test"}
    ]
    assert one.steps_to(0.5) == 500
    assert np.isnan(one.steps_to(0.8))
    lucky = {"steps": 100, "seconds": 1, "success": 1.0, "episodes": 1}  # the one episode that has ended
    assert replace(one, curve=[lucky, *({"episodes": 100} | row for row in one.curve)]).steps_to(0.5) == 500
    assert one.steps_per_second == 500

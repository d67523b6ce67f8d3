"""Experts solve their tasks, and players who only pretend to never do."""

import numpy as np
import pytest

from rl_probes.envs.named import task_of
from rl_probes.envs.scripted import (
    expert_actions,
    near_miss_actions,
    oscillating_actions,
    stages,
    wrong_object_actions,
)
from rl_probes.envs.sprite_world import TIME_LIMIT, SpriteWorld


def play(task, player, count=48):
    """Success (B), length (B), progress (T+1 B), stages (T+1 B) of one episode per environment."""
    world = SpriteWorld(task_of(task), count, 8)
    world.reset(seeds=np.arange(count))
    success, over, length = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, int)
    progress, stage = [world.progress()], [stages(world)]
    for _ in range(TIME_LIMIT):
        outcome = world.step(player(world))
        success |= ~over & outcome.info["success"]
        length += ~over
        progress.append(np.where(over, progress[-1], outcome.info["progress"]))
        stage.append(stages(world))
        over |= outcome.terminated | outcome.truncated
        if over.all():
            break
    return success, length, np.stack(progress), np.stack(stage)


@pytest.mark.parametrize(
    ("task", "rate"),
    [("object goal", 0.9), ("object comparison", 0.85), ("push N1C4S1S1", 1.0), ("push", 0.8)],
)
def test_experts_solve_their_tasks(task, rate):
    success, length, progress, _ = play(task, expert_actions)
    assert success.mean() >= rate
    assert (progress[-1][success] == 1).all()
    assert length[success].max() < TIME_LIMIT


def test_pushing_goes_through_both_stages():
    success, _, progress, stage = play("push N1C4S1S1", expert_actions, 16)
    assert success.all()
    assert (stage[0] == 0).all()
    reached = stage.argmax(0)  # the first step at the square
    assert (reached > 0).all()
    assert all(np.ptp(progress[: reached[b], b]) == 0 for b in range(16)), "nothing moves the square before contact"


@pytest.mark.parametrize("task", ["object goal", "property comparison"])
def test_those_who_pretend_never_succeed(task):
    success, length, progress, _ = play(task, near_miss_actions)
    assert not success.any()
    whole = length == TIME_LIMIT  # others are in the way of some
    assert whole.mean() > 0.8
    assert progress[:, whole].max(0).min() > 0.85
    success, length, _, _ = play(task, wrong_object_actions)
    assert not success.any()
    assert length.max() < TIME_LIMIT


def test_oscillation_goes_nowhere():
    success, length, progress, _ = play("push N1C4S1S1", oscillating_actions)
    assert not success.any()
    assert (length == TIME_LIMIT).all()
    assert progress[-1].max() < 1

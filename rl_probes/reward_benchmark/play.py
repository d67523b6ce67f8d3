"""Positive and negative episodes of sprite tasks, all steps with their exact worth.

After the benchmark RewardPrediction (2026): of every task some episodes reach the goal and others do not, and a
predictor is scored on the steps of both together, so that neither a clock nor a constant can score. There, positives
are demonstrations with random steps added at their ends and rewards interpolated along the way, negatives are random
play. Here the simulator knows the worth of every step, so nothing is interpolated; a success ends the episode, so
random steps stand at its beginning only; and negatives are also played by those who mean to be taken for experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_probes.envs.push import Push
from rl_probes.envs.scripted import (
    expert_actions,
    near_miss_actions,
    oscillating_actions,
    stages,
    wrong_object_actions,
)
from rl_probes.envs.sprite_world import TIME_LIMIT, SpriteWorld, random_actions
from rl_probes.envs.tasks import Integers, Task

OBJECTS = ("position", "shape", "color", "scale", "is_agent", "visible")
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Kind:
    """A way to play. actions: of a world and a generator; lead: at most so many random steps come first.

    epsilon: how often a random action is taken instead. positive: keep the successes; else the others.
    """

    name: str
    actions: Callable[[SpriteWorld, np.random.Generator], Integers]
    positive: bool
    lead: int = 5
    epsilon: float = 0.0


KINDS = (
    Kind("expert", lambda world, generator: expert_actions(world), positive=True),
    Kind("careless expert", lambda world, generator: expert_actions(world), positive=True, epsilon=0.4),
    Kind("random", random_actions, positive=False),
    Kind("near miss", lambda world, generator: near_miss_actions(world), positive=False),
    Kind("oscillating", lambda world, generator: oscillating_actions(world), positive=False),
    Kind("wrong object", lambda world, generator: wrong_object_actions(world), positive=False),
    Kind("clipped expert", lambda world, generator: expert_actions(world), positive=True),
)
"""In the order of the numbers that the field "kind" holds. The last are successes, cut before they are any."""


def play(task: Task, starts: Integers, kind: Kind, generator: np.random.Generator) -> list[Arrays]:
    """One episode from each start (seed) -> the frames (T ...) of those that ended as the kind wants them, with
    "start" (index into `starts`), "action", "reward", "progress", "terminated", "truncated", "success", "step",
    "stage" and the objects' attributes.
    """
    if not len(starts):
        return []
    world = SpriteWorld(task, len(starts))
    world.reset(seeds=starts)
    lead = generator.integers(0, kind.lead + 1, len(starts))
    nothing = np.zeros(len(starts), bool)
    frames = [
        _frame(world, np.full(len(starts), -1), np.zeros(len(starts)), nothing, nothing, nothing, world.progress())
    ]
    over = nothing
    length = np.zeros(len(starts), np.int64)
    while not over.all() and len(frames) <= TIME_LIMIT:
        wanders = (len(frames) <= lead) | (generator.random(len(starts)) < kind.epsilon)
        actions = np.where(wanders, random_actions(world, generator), kind.actions(world, generator))
        outcome = world.step(actions)
        reached = outcome.terminated, outcome.truncated, outcome.info["success"]
        frames.append(_frame(world, actions, outcome.reward, *reached, outcome.info["progress"]))
        length = np.where(over, length, len(frames) - 1)
        over = over | outcome.terminated | outcome.truncated
    found = []
    for index in range(len(starts)):
        episode = {name: np.stack([frame[name][index] for frame in frames[: length[index] + 1]]) for name in frames[0]}
        if bool(episode["success"][-1]) == kind.positive:
            steps = np.arange(len(episode["action"]), dtype=np.int32)
            found.append(episode | {"step": steps, "start": np.full(len(steps), index, np.int32)})
    return found


def clip(episode: Arrays, generator: np.random.Generator) -> Arrays:
    """A success cut after a share of its frames drawn from [0.3, 0.8): a time limit, and a negative."""
    count = max(2, int(generator.uniform(0.3, 0.8) * len(episode["action"])))
    part = {name: values[:count].copy() for name, values in episode.items()}
    part["terminated"][-1] = part["success"][-1] = False
    part["truncated"][-1] = True
    return part


def goal_of(task: Task, episode: Arrays) -> Arrays:
    """The last state of a success as a goal: the objects, and "weight" (M) 1 for those whose place decides: the square
    that is pushed, or the agent that touches (the last column)."""
    weight = np.zeros(len(episode["visible"][-1]), np.float32)
    if isinstance(task, Push):
        moved = np.linalg.norm(np.diff(episode["position"], axis=0), axis=-1).sum(0)[: task.num_objects]
        weight[moved.argmax()] = 1.0
    else:
        weight[-1] = 1.0
    return {name: episode[name][-1] for name in OBJECTS} | {"weight": weight}


def _frame(
    world: SpriteWorld,
    action: Integers,
    reward: NDArray[Any],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    success: NDArray[np.bool_],
    progress: NDArray[np.float32],
) -> Arrays:
    objects = world.observe(frozenset({"objects"})).objects
    return {
        "action": action.astype(np.int32),
        "reward": reward.astype(np.float32),
        "progress": progress.astype(np.float32),
        "terminated": terminated,
        "truncated": truncated,
        "success": success,
        "stage": stages(world).astype(np.int32),
        **{name: objects[name].numpy().copy() for name in OBJECTS},
    }

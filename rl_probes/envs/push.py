"""Object Interaction: push the blue square into the corner where another blue square marks the goal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ocl.data.sprites import COLORS, SHAPES
from rl_probes.envs.streams import Streams
from rl_probes.envs.tasks import (
    AGENT_SCALE,
    CONTACT,
    TARGET_SCALE,
    Floats,
    Integers,
    Sprites,
    Task,
    indices_of,
    parts_of_difficulty,
)

GOAL = TARGET_SCALE / 2
"""Both coordinates of the goal's centre: as far into the lower left corner as a square can get."""
TOUCHING = 1e-6
"""Sprites overlap where they are nearer than touching by more than this: pushed ones stay exactly in contact."""


class Push(Task):
    """Squares that the agent pushes along its axis of movement. The first to reach the goal ends the episode, which
    succeeds if it is the blue one. The goal looks the same as the blue square and is no obstacle.

    Objects are asked in the order of their columns: one that the agent would overlap moves along with it, unless it
    lies at a wall of that axis or would overlap another object; then the agent stays where it is. Objects asked before
    keep their move. The agent goes as far as the least moved object.

    Args:
        num_objects: M, one blue square and others.
        colors: of the others; blue is left out.

    Raises:
        ValueError: no object, or objects but the blue one and no colour for them.
    """

    wall = 0.15

    def __init__(self, num_objects: int = 3, colors: Sequence[str] = COLORS[:4]) -> None:
        if num_objects < 1:
            raise ValueError(f"Push needs at least 1 object, got {num_objects}.")
        self.num_objects = num_objects
        others = [name for name in colors if name != "blue"]
        self.colors = np.zeros(0, dtype=np.int64)
        if others or num_objects > 1:
            self.colors = indices_of("Push", "colors", others, COLORS)

    @classmethod
    def of_difficulty(cls, name: str) -> Self:
        objects, colors, shapes, scales = parts_of_difficulty(name)
        if (shapes, scales) != (1, 1):
            raise ValueError(f"Push has squares of one scale, so its difficulties end in S1S1, got {name!r}.")
        return cls(objects, COLORS[:colors])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"colors": [COLORS[index] for index in self.colors]}

    def fixtures(self) -> tuple[Sprites, Floats]:
        square, blue = np.array([SHAPES.index("square")]), np.array([COLORS.index("blue")])
        return Sprites(square, blue, np.array([TARGET_SCALE])), np.array([[GOAL, GOAL]])

    def draw(self, streams: Streams) -> tuple[Sprites, Integers]:
        blue = COLORS.index("blue")
        colors = self.colors if len(self.colors) else np.array([blue])
        color = colors[(streams.uniform(self.num_objects) * len(colors)).astype(np.int64)]
        target = streams.below(self.num_objects)
        color[np.arange(len(streams)), target] = blue
        shape = np.full(color.shape, SHAPES.index("square"))
        return Sprites(shape, color, np.full(color.shape, TARGET_SCALE)), target

    def move(self, agent: Floats, objects: Floats, scale: Floats, delta: Floats) -> tuple[Floats, Floats]:
        objects, along = objects.copy(), delta != 0  # (n 2)
        wanted, least = agent + delta, np.abs(delta).max(axis=1)  # how far the agent gets
        blocked = np.zeros(len(agent), dtype=bool)
        for m in range(self.num_objects):
            radius = scale[:, m] / 2
            pushed = ~blocked & (_distance(objects[:, m], wanted) + TOUCHING < radius + AGENT_SCALE / 2)
            at_wall = (objects[:, m] == radius[:, None]) | (objects[:, m] == 1 - radius[:, None])
            moved = objects[:, m] + delta
            gaps = _distance(objects, moved[:, None]) + TOUCHING - (scale + scale[:, m, None]) / 2
            gaps[:, m] = np.inf
            stuck = pushed & ((at_wall & along).any(axis=1) | (gaps < 0).any(axis=1))
            pushed &= ~stuck
            moved = np.clip(moved, radius[:, None], 1 - radius[:, None])
            least = np.where(pushed, np.minimum(least, np.abs(moved - objects[:, m]).max(axis=1)), least)
            objects[:, m] = np.where(pushed[:, None], moved, objects[:, m])
            blocked |= stuck
        way = np.sign(delta) * np.where(blocked, 0.0, least)[:, None]
        return np.clip(agent + way, AGENT_SCALE / 2, 1 - AGENT_SCALE / 2), objects

    def judge(self, agent: Floats, objects: Floats, target: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        arrived = _distance(objects, np.array([GOAL, GOAL])) < CONTACT
        return np.asarray(arrived.any(axis=1)), arrived[np.arange(len(target)), target]

    def distance(self, agent: Floats, objects: Floats, target: Integers) -> Floats:
        return _distance(objects[np.arange(len(target)), target], np.array([GOAL, GOAL]))


def _distance(one: Floats, other: Floats) -> Floats:
    return np.asarray(np.linalg.norm(one - other, axis=-1))

"""Eight rooms of sprites, one behind the other: how much of them an agent ever sees depends on how it explores."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer, flip_y
from ocl.shapes import Batch
from rl_probes.envs.placement import place
from rl_probes.envs.sprite_world import MOVES
from rl_probes.envs.streams import Streams
from rl_probes.envs.tasks import AGENT_SCALE, TARGET_SCALE, Integers, ObjectGoal
from rl_probes.envs.world import Outcome, World

ROOMS = np.array([[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [2, 1], [1, 1], [0, 1]])
"""(8 2) column and row (from below) of each room, in the order in which doors connect them."""
SIDE = 17
"""Places of the agent along each side of a room."""
STRIDE = 0.05
MIDDLE = SIDE // 2
DOOR = 1
"""A door reaches this many places to both sides of the middle of its wall."""
DOOR_SCALE = 0.1
DOOR_AWAY = 0.45
"""Of a door's centre from the room's middle."""
LANDMARKS = 3
LOOKS = ("square", "triangle"), ("green", "yellow", "red")
"""Shapes and colours of landmarks; doors are blue stars."""
NEAR = 3
"""Centres of sprites of scale 0.15 touch when they are less than this many places apart."""
STEPS = np.sign(MOVES).astype(np.int64)
"""(4 2) places by which an action moves."""
ARRAYS = ("room", "place", "steps", "visits")


def _beyond() -> Integers:
    beyond = np.full((len(ROOMS), len(STEPS)), -1)
    for room, way in enumerate(np.diff(ROOMS, axis=0)):
        action = int(np.flatnonzero((way == STEPS).all(axis=1))[0])
        beyond[room, action], beyond[room + 1, (action + 2) % 4] = room + 1, room
    return beyond


BEYOND = _beyond()
"""(8 4) the room behind each wall, by the action that leads there; -1 where there is no door."""


class MazeWorld(World):
    """B episodes in one maze, of which a frame shows the agent's room.

    The agent, a red circle, begins in the middle of the first room, on one of 17 x 17 places per room, and moves by one
    up, left, down or right. Rooms follow each other through doors three places wide in the middle of a wall, blue
    stars; the last is seven doors away. Three landmarks, which nothing depends on and the agent walks over, tell the
    rooms apart. Touching the blue square in the middle of the last room is the success, pays 1 and ends the episode;
    all else pays 0, so without a bonus there is nothing to learn from before the way is found. After `time_limit` steps
    an episode is truncated. All episodes are alike: their seeds change nothing.

    `observe` gives M = 9 columns in painter's order: landmarks, doors (up, left, down, right), goal, agent, with the
    attributes of `SpriteWorld`; "visible" says which of them are in this room.

    visits: (8 17 17) int64, how often any environment stood on each place (room, x, y) since the world was made.

    Args:
        num_envs: B.
        image_size: pixels along each side.
        seed: of the landmarks' looks and places, and of nothing else.
        time_limit: steps of an episode; the shortest way takes 114.

    Raises:
        ValueError: num_envs or time_limit below 1.
    """

    num_actions = len(MOVES)
    fields = frozenset({"images", "segmentation", "objects"})

    def __init__(self, num_envs: int = 1, image_size: int = 64, seed: int = 0, time_limit: int = 200) -> None:
        if num_envs < 1 or time_limit < 1:
            raise ValueError(f"MazeWorld: num_envs and time_limit must be at least 1, got {num_envs} and {time_limit}.")
        self.num_envs, self.image_size, self.seed, self.time_limit = (
            num_envs,
            (image_size, image_size),
            seed,
            time_limit,
        )
        self._renderer = SpriteRenderer(image_size)
        self._furniture = _furnish(seed)
        self.room, self.steps = np.zeros(num_envs, np.int64), np.zeros(num_envs, np.int64)
        self.place = np.full((num_envs, 2), MIDDLE)
        self.visits = np.zeros((len(ROOMS), SIDE, SIDE), np.int64)
        self.reset()

    def reset(self, indices: Integers | None = None, seeds: Integers | None = None) -> None:
        """Raises ValueError where there is not one seed per index."""
        chosen = self._chosen(indices)
        if seeds is not None and np.shape(seeds) != chosen.shape:
            raise ValueError(f"MazeWorld.reset: {len(chosen)} environments need one seed each, got {np.shape(seeds)}.")
        self.room[chosen], self.place[chosen], self.steps[chosen] = 0, MIDDLE, 0
        self.visits[0, MIDDLE, MIDDLE] += len(chosen)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Raises ValueError where an action is not among 0..3. Steps after the end of an episode go on in it."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < self.num_actions)).all():
            raise ValueError(
                f"MazeWorld.step: needs {self.num_envs} actions in 0..{self.num_actions - 1}, got {actions}."
            )
        wanted = self.place + STEPS[actions]
        outside = ((wanted < 0) | (wanted >= SIDE)).any(axis=1)
        along = np.take_along_axis(self.place, (STEPS[actions, :1] != 0).astype(np.int64), axis=1)[:, 0]
        beyond = BEYOND[self.room, actions]
        passes = outside & (beyond >= 0) & (np.abs(along - MIDDLE) <= DOOR)
        self.room = np.where(passes, beyond, self.room)
        self.place = np.where(passes[:, None], wanted % SIDE, np.clip(wanted, 0, SIDE - 1))
        self.steps += 1
        np.add.at(self.visits, (self.room, *self.place.T), 1)
        near = np.square(self.place - MIDDLE).sum(axis=1) < NEAR**2
        success = (self.room == len(ROOMS) - 1) & near
        truncated = (self.steps >= self.time_limit) & ~success
        info: dict[str, NDArray[Any]] = {"success": success, "progress": self.progress()}
        return Outcome(success.astype(np.float32), success, truncated, info)

    def progress(self) -> NDArray[np.float32]:
        """(B,) the share of the doors on the way to the last room that lie behind the agent."""
        return (self.room / (len(ROOMS) - 1)).astype(np.float32)

    def coverage(self) -> float:
        """The share of all places, in [0, 1], that any environment ever stood on."""
        return float((self.visits > 0).mean())

    def rooms_seen(self) -> int:
        """How many rooms any environment was ever in, 1 to 8."""
        return int((self.visits > 0).any(axis=(1, 2)).sum())

    def observe(self, fields: frozenset[str], indices: Integers | None = None) -> Batch:
        """Raises ValueError for a field that does not exist."""
        if not fields <= self.fields:
            raise ValueError(f"MazeWorld cannot observe {sorted(fields - self.fields)}; it has {sorted(self.fields)}.")
        chosen = self._chosen(indices)
        position, shape, color, scale, visible = (values[self.room[chosen]] for values in self._furniture.values())
        position[:, -1] = 0.5 + STRIDE * (self.place[chosen] - MIDDLE)  # of a copy
        batch = Batch(torch.empty((len(chosen), 3, 0, 0), dtype=torch.uint8))
        if fields & {"images", "segmentation"}:
            images, segmentation = self._renderer.render(position, shape, color, scale, visible)
            batch.images = torch.from_numpy(images)
            if "segmentation" in fields:
                batch.segmentation = torch.from_numpy(segmentation.astype(np.int64))
        if "objects" in fields:
            is_agent = np.zeros(scale.shape, dtype=np.int64)
            is_agent[:, -1] = 1
            batch.objects = {
                "position": torch.from_numpy(flip_y(position).astype(np.float32)),
                "shape": torch.from_numpy(shape),
                "color": torch.from_numpy(color),
                "scale": torch.from_numpy(scale.astype(np.float32)),
                "is_agent": torch.from_numpy(is_agent),
                "visible": torch.from_numpy(visible),
            }
        return batch

    def provenance(self) -> dict[str, Any]:
        maze = {"landmarks": self.seed, "time_limit": self.time_limit, "image_size": self.image_size[0]}
        return {"environment": "Maze"} | maze

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name).copy() for name in ARRAYS}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is of another number of environments."""
        for name in ARRAYS:
            value, own = np.asarray(state[name]), getattr(self, name)
            if value.shape != own.shape:
                raise ValueError(f"MazeWorld.set_state: {name} is {value.shape}, this world needs {own.shape}.")
            setattr(self, name, value.astype(own.dtype))

    def close(self) -> None:
        """Nothing to release."""


def _furnish(seed: int) -> dict[str, NDArray[Any]]:
    """What every room holds, by attribute: (8 M ...) with M = landmarks, doors, goal, agent."""
    rooms = len(ROOMS)
    streams = Streams(np.arange(rooms) + rooms * seed)
    kinds = np.array([(SHAPES.index(shape), COLORS.index(color)) for shape, color in product(*LOOKS)])
    landmarks = kinds[(streams.uniform(LANDMARKS) * len(kinds)).astype(np.int64)]  # (8 LANDMARKS 2)
    rest = [(SHAPES.index("star_4"), COLORS.index("blue"))] * len(MOVES)
    rest += [(SHAPES.index("square"), COLORS.index("blue")), (SHAPES.index("circle"), COLORS.index("red"))]
    looks = np.concatenate([landmarks, np.broadcast_to(np.array(rest), (rooms, len(rest), 2))], axis=1)
    scale = np.array([TARGET_SCALE] * LANDMARKS + [DOOR_SCALE] * len(MOVES) + [TARGET_SCALE, AGENT_SCALE])
    # Placed as an episode's objects are: clear of each other and of the middle, where goal and agent are.
    places = place(streams, np.full((rooms, LANDMARKS), TARGET_SCALE), ObjectGoal(LANDMARKS))
    fixed = np.concatenate([0.5 + DOOR_AWAY * STEPS, np.full((2, 2), 0.5)])
    present = np.ones((rooms, len(scale)), dtype=bool)
    present[:, LANDMARKS : LANDMARKS + len(MOVES)] = BEYOND >= 0
    present[:-1, -2] = False
    return {
        "position": np.concatenate([places, np.broadcast_to(fixed, (rooms, *fixed.shape))], axis=1),
        "shape": looks[..., 0],
        "color": looks[..., 1],
        "scale": np.broadcast_to(scale, present.shape),
        "visible": present,
    }

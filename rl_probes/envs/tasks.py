"""What there is to do in a sprite world: which objects an episode holds, how they move, when it is solved.

The tasks of Yoon, Wu, Bae, Ahn, "An Investigation into Pre-Training Object-Centric Representations for Reinforcement
Learning" (ICML 2023), in world coordinates: the unit square, y up. n is the number of episodes, M of objects.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ocl.data.sprites import COLORS, SHAPES
from rl_probes.envs.streams import Streams

AGENT_SCALE = 0.15
TARGET_SCALE = 0.15
"""Of the blue square."""
SCALES = (0.15, 0.22)
"""Of objects, in the order in which harder difficulties add them."""
CONTACT = 0.15
"""Centres nearer than this touch."""
REACH = np.sqrt(2) * (1 - AGENT_SCALE)
"""The longest way between two places of the agent: what is left to do is measured against it, in every episode."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Sprites(NamedTuple):
    """Looks, all (n M): shape and color index `ocl.data.sprites.SHAPES` and `COLORS`."""

    shape: Integers
    color: Integers
    scale: Floats


class Task(ABC):
    """One task: stateless, so that one object serves any number of environments.

    num_objects: M. wall: least distance between a placed object and the walls.
    """

    num_objects: int
    wall: float = 0.08

    @classmethod
    @abstractmethod
    def of_difficulty(cls, name: str) -> Self:
        """From "N4C2S2S1": numbers of objects, colours, shapes and scales (the first so many of those known).

        Raises:
            ValueError: a name that reads otherwise, or a difficulty that the task does not have.
        """

    @abstractmethod
    def draw(self, streams: Streams) -> tuple[Sprites, Integers]:
        """The looks of n new episodes, and (n,) which column is the target."""

    @abstractmethod
    def move(self, agent: Floats, objects: Floats, scale: Floats, delta: Floats) -> tuple[Floats, Floats]:
        """Where agent (n 2) and objects (n M 2) are after the agent tries to move by delta (n 2)."""

    @abstractmethod
    def judge(self, agent: Floats, objects: Floats, target: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n,) the episode is over; (n,) and it is a success."""

    @abstractmethod
    def distance(self, agent: Floats, objects: Floats, target: Integers) -> Floats:
        """(n,) distance between the two centres that must touch; below `CONTACT` exactly where the task succeeds."""

    def fixtures(self) -> tuple[Sprites, Floats]:
        """Looks (F,) and centres (F 2) of sprites that stand in every episode, drawn over objects, under the agent."""
        nothing = np.zeros(0, dtype=np.int64)
        return Sprites(nothing, nothing, np.zeros(0)), np.zeros((0, 2))

    def describe(self) -> dict[str, Any]:
        """What episodes are drawn from, for manifests and tables."""
        return {"environment": type(self).__name__, "num_objects": self.num_objects}

    def progress(self, agent: Floats, objects: Floats, target: Integers) -> NDArray[np.float32]:
        """(n,) 1 - max(0, distance - CONTACT) / (REACH - CONTACT): 1 exactly at success, 0 at the longest way."""
        left = np.maximum(0.0, self.distance(agent, objects, target) - CONTACT)
        return np.asarray(1 - left / (REACH - CONTACT), dtype=np.float32)


class TouchTask(Task):
    """Touching any object ends the episode; it succeeds if the target is touched.

    Args:
        num_objects: M.
        colors, shapes, scales: what the objects are made from.

    Raises:
        ValueError: an unknown name, or fewer objects or values than the task needs.
    """

    def __init__(
        self, num_objects: int, colors: Sequence[str], shapes: Sequence[str], scales: Sequence[float] = (0.15,)
    ) -> None:
        name = type(self).__name__
        if num_objects < 2:
            raise ValueError(f"{name} needs at least 2 objects, got {num_objects}.")
        if not scales or not all(0 < scale < 0.5 for scale in scales):
            raise ValueError(f"{name}: scales must lie between 0 and 0.5, got {list(scales)}.")
        self.num_objects = num_objects
        self.colors = indices_of(name, "colors", colors, COLORS)
        self.shapes = indices_of(name, "shapes", shapes, SHAPES)
        self.scales = np.array(scales, dtype=np.float64)

    @classmethod
    def of_difficulty(cls, name: str) -> Self:
        objects, colors, shapes, scales = parts_of_difficulty(name)
        return cls(objects, COLORS[:colors], SHAPES[:shapes], SCALES[:scales])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "colors": [COLORS[index] for index in self.colors],
            "shapes": [SHAPES[index] for index in self.shapes],
            "scales": self.scales.tolist(),
        }

    @property
    def values(self) -> tuple[NDArray[Any], ...]:
        """What there is of each attribute, in the order of `Sprites`."""
        return self.shapes, self.colors, self.scales

    def move(self, agent: Floats, objects: Floats, scale: Floats, delta: Floats) -> tuple[Floats, Floats]:
        """The agent passes through everything but the walls."""
        return np.clip(agent + delta, AGENT_SCALE / 2, 1 - AGENT_SCALE / 2), objects

    def judge(self, agent: Floats, objects: Floats, target: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where the agent touches two objects at once, the target among them, it has found the target."""
        touched = np.linalg.norm(objects - agent[:, None], axis=-1) < CONTACT
        return touched.any(axis=1), touched[np.arange(len(target)), target]

    def distance(self, agent: Floats, objects: Floats, target: Integers) -> Floats:
        offset = objects[np.arange(len(target)), target] - agent
        return np.asarray(np.linalg.norm(offset, axis=-1))


class ObjectGoal(TouchTask):
    """Touch the blue square. The others are any colour and shape but that; several may share either."""

    def __init__(
        self,
        num_objects: int = 4,
        colors: Sequence[str] = COLORS[:4],
        shapes: Sequence[str] = SHAPES[:3],
        scales: Sequence[float] = (0.15,),
    ) -> None:
        super().__init__(num_objects, colors, shapes, scales)
        kinds = np.meshgrid(self.shapes, self.colors, self.scales, indexing="ij")
        shape, color, scale = (values.ravel() for values in kinds)
        blue_square = (shape == SHAPES.index("square")) & (color == COLORS.index("blue")) & (scale == TARGET_SCALE)
        if blue_square.all():
            raise ValueError("ObjectGoal: colors, shapes and scales allow nothing but the blue square itself.")
        self._others = Sprites(shape[~blue_square], color[~blue_square], scale[~blue_square])

    def draw(self, streams: Streams) -> tuple[Sprites, Integers]:
        drawn = (streams.uniform(self.num_objects) * len(self._others.shape)).astype(np.int64)
        others = self._others
        sprites = Sprites(others.shape[drawn], others.color[drawn], others.scale[drawn])
        target = streams.below(self.num_objects)
        rows = np.arange(len(streams))
        sprites.shape[rows, target] = SHAPES.index("square")
        sprites.color[rows, target] = COLORS.index("blue")
        sprites.scale[rows, target] = TARGET_SCALE
        return sprites, target


class _OddOneOut(TouchTask):
    """The target alone has its value of one attribute, chosen at random among those with more than one value."""

    def __init__(
        self,
        num_objects: int = 4,
        colors: Sequence[str] = COLORS[:2],
        shapes: Sequence[str] = SHAPES[:2],
        scales: Sequence[float] = (0.15,),
    ) -> None:
        super().__init__(num_objects, colors, shapes, scales)
        self._varying = [which for which, values in enumerate(self.values) if len(values) > 1]
        if num_objects < 3 or not self._varying:
            raise ValueError(
                f"{type(self).__name__} needs at least 3 objects and an attribute with two values, got {num_objects} "
                f"objects, colors {list(colors)}, shapes {list(shapes)} and scales {list(scales)}."
            )

    def draw(self, streams: Streams) -> tuple[Sprites, Integers]:
        odd = np.array(self._varying)[streams.below(len(self._varying))]
        target = streams.below(self.num_objects)
        columns = []
        for which, values in enumerate(self.values):
            unique = streams.below(len(values))
            at_target = (odd == which)[:, None] & (np.arange(self.num_objects) == target[:, None])  # (n M)
            others = self._others(streams, len(values), unique, at_target)
            columns.append(values[np.where(at_target, unique[:, None], others)])
        return Sprites(*columns), target

    @abstractmethod
    def _others(self, streams: Streams, count: int, unique: Integers, taken: NDArray[np.bool_]) -> Integers:
        """(n M) values in 0..count - 1 of one attribute for the objects that are not `taken` (n M); in a row where an
        object is taken, the others must differ from that row's `unique` (n,)."""


class ObjectComparison(_OddOneOut):
    """Touch the object that differs: all others are identical, the target differs from them in one attribute."""

    def _others(self, streams: Streams, count: int, unique: Integers, taken: NDArray[np.bool_]) -> Integers:
        return np.broadcast_to(_another(streams, count, unique, taken)[:, None], taken.shape)


class PropertyComparison(_OddOneOut):
    """Touch the object with a value that no other has; every other value of every attribute occurs at least twice, so
    the other objects need not be identical."""

    def _others(self, streams: Streams, count: int, unique: Integers, taken: NDArray[np.bool_]) -> Integers:
        # A random order of the free objects, cut into groups of at least two that share a value.
        order = np.argsort(np.where(taken, 2.0, streams.uniform(self.num_objects)), axis=1)
        place = np.argsort(order, axis=1)
        left = (~taken).sum(axis=1)
        values = np.zeros(taken.shape, dtype=np.int64)
        for _ in range(self.num_objects // 2):
            value = _another(streams, count, unique, taken)
            group = 2 + streams.below(np.maximum(left - 1, 1))
            group = np.where(left - group <= 1, left, group)  # nobody stays alone
            filled = (place < left[:, None]) & (place >= (left - group)[:, None])
            values = np.where(filled, value[:, None], values)
            left = left - group
        return values


def _another(streams: Streams, count: int, unique: Integers, taken: NDArray[np.bool_]) -> Integers:
    """(n,) a value in 0..count - 1 that is not `unique` in the rows where an object is taken."""
    if count == 1:
        return np.zeros(len(streams), dtype=np.int64)
    forbidden = taken.any(axis=1)
    drawn = streams.below(np.where(forbidden, count - 1, count))
    return np.where(forbidden & (drawn >= unique), drawn + 1, drawn)


def parts_of_difficulty(name: str) -> tuple[int, int, int, int]:
    """ "N4C2S2S1" -> (4, 2, 2, 1): numbers of objects, colours, shapes and scales; raises ValueError otherwise."""
    most = len(COLORS), len(SHAPES), len(SCALES)
    match = re.fullmatch(r"N(\d+)C(\d+)S(\d+)S(\d+)", name)
    parts = tuple(map(int, match.groups())) if match else ()
    if not parts or not all(1 <= part <= bound for part, bound in zip(parts[1:], most, strict=True)):
        known = "C{}S{}S{}".format(*most)
        raise ValueError(f'the difficulty must read like "N4C2S2S1" (at most {known}), got {name!r}.')
    return parts[0], parts[1], parts[2], parts[3]


def indices_of(task: str, argument: str, names: Sequence[str], known: tuple[str, ...]) -> Integers:
    """Where the names stand among those `known`; raises ValueError for others, or for none."""
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{task}: {argument} must be among {', '.join(known)}; got {list(names)}.")
    return np.array([known.index(name) for name in names], dtype=np.int64)

"""Sprite worlds: a red circle among objects, many episodes side by side as numpy arrays, drawn only on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer, flip_y
from ocl.shapes import Batch
from rl_probes.envs.appearance import Appearance, Scenery
from rl_probes.envs.named import task_of
from rl_probes.envs.placement import START, place
from rl_probes.envs.streams import Streams
from rl_probes.envs.tasks import AGENT_SCALE, Integers, Task
from rl_probes.envs.world import Outcome, World

MOVES = np.array([[0.0, 0.05], [-0.05, 0.0], [0.0, -0.05], [0.05, 0.0]])
"""Up, left, down, right; y up."""
TIME_LIMIT = 100
ARRAYS = ("agent", "position", "shape", "color", "scale", "target", "steps")


class SpriteWorld(World):
    """B episodes of one task.

    The agent, a red circle of scale 0.15, starts at (0.5, 0.5) and walks by 0.05 up, left, down or right. The reward
    is 1 for success and 0 otherwise; after 100 steps an unfinished episode is truncated. Each step reports "success"
    (bool) and "progress" (`Task.progress`). An episode is a pure function of its seed and the actions.

    `observe` gives M = objects, then fixtures, then the agent, in painter's order: "position" (x, y down), "shape",
    "color", "scale", "visible" and "is_agent" (int64). Nothing in these worlds can hide another sprite entirely, so
    all are visible. Where neither "images" nor "segmentation" is asked for, nothing is drawn and images are
    (B 3 0 0).

    Args:
        task: what there is to do, or its name: "object comparison N4C3S2S1"; see `rl_probes.envs.named.task_of`.
        num_envs: B.
        image_size: pixels along each side.
        seed: of the generator that new episodes take their seeds from.
        appearances: what frames look like besides the objects, one after the other; see `Appearance`. Episodes are
            the same with and without.

    Raises:
        ValueError: num_envs below 1, a negative seed, or an unknown name.
    """

    num_actions = len(MOVES)
    fields = frozenset({"images", "segmentation", "objects"})

    def __init__(
        self,
        task: Task | str,
        num_envs: int = 1,
        image_size: int = 64,
        seed: int = 0,
        appearances: Sequence[Appearance] = (),
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"SpriteWorld: num_envs must be at least 1, got {num_envs}.")
        if seed < 0:
            raise ValueError(f"SpriteWorld: seed must not be negative, got {seed}.")
        self.task = task_of(task) if isinstance(task, str) else task
        self.num_envs, self.image_size = num_envs, (image_size, image_size)
        self._renderer = SpriteRenderer(image_size)
        self._scenery = Scenery(list(appearances), num_envs, image_size) if appearances else None
        self._generator = np.random.default_rng(seed)
        objects = (num_envs, self.task.num_objects)
        self.agent = np.full((num_envs, 2), START)
        self.position = np.zeros((*objects, 2))
        self.shape, self.color = np.zeros(objects, dtype=np.int64), np.zeros(objects, dtype=np.int64)
        self.scale = np.zeros(objects)
        self.target, self.steps = np.zeros(num_envs, dtype=np.int64), np.zeros(num_envs, dtype=np.int64)
        self.reset()

    def reset(self, indices: Integers | None = None, seeds: Integers | None = None) -> None:
        """Raises ValueError where there is not one seed per index, TypeError where an index is no integer."""
        chosen = self._chosen(indices)
        if seeds is None:
            seeds = self._generator.integers(2**63, size=len(chosen))
        seeds = np.asarray(seeds)
        if seeds.shape != chosen.shape:
            raise ValueError(f"SpriteWorld.reset: {len(chosen)} environments need one seed each, got {seeds.shape}.")
        streams = Streams(seeds)
        sprites, self.target[chosen] = self.task.draw(streams)
        self.shape[chosen], self.color[chosen], self.scale[chosen] = sprites
        self.position[chosen] = place(streams, sprites.scale, self.task)
        self.agent[chosen] = START
        self.steps[chosen] = 0
        if self._scenery is not None:
            self._scenery.start(chosen, seeds)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Raises ValueError where an action is not among 0..3. Steps after the end of an episode go on in it."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < len(MOVES))).all():
            raise ValueError(f"SpriteWorld.step: needs {self.num_envs} actions in 0..{len(MOVES) - 1}, got {actions}.")
        self.agent, self.position = self.task.move(self.agent, self.position, self.scale, MOVES[actions])
        self.steps += 1
        terminated, success = self.task.judge(self.agent, self.position, self.target)
        truncated = (self.steps >= TIME_LIMIT) & ~terminated
        info: dict[str, NDArray[Any]] = {"success": success, "progress": self.progress()}
        return Outcome(success.astype(np.float32), terminated, truncated, info)

    def progress(self) -> NDArray[np.float32]:
        """(B,) how near each episode is to success, in [0, 1]; see `Task.progress`."""
        return self.task.progress(self.agent, self.position, self.target)

    def observe(self, fields: frozenset[str], indices: Integers | None = None) -> Batch:
        """Raises ValueError for a field that does not exist."""
        if not fields <= self.fields:
            raise ValueError(
                f"SpriteWorld cannot observe {sorted(fields - self.fields)}; it has {sorted(self.fields)}."
            )
        chosen = self._chosen(indices)
        fixed, places = self.task.fixtures()
        count, columns = len(chosen), len(places)
        position = np.concatenate(
            [self.position[chosen], np.broadcast_to(places, (count, columns, 2)), self.agent[chosen, None]], axis=1
        )
        ends = (SHAPES.index("circle"), COLORS.index("red"), AGENT_SCALE)
        shape, color, scale = (
            np.concatenate([own[chosen], np.broadcast_to(np.append(fixture, end), (count, columns + 1))], axis=1)
            for own, fixture, end in zip((self.shape, self.color, self.scale), fixed, ends, strict=True)
        )
        visible = np.ones(scale.shape, dtype=bool)
        batch = Batch(torch.empty((count, 3, 0, 0), dtype=torch.uint8))
        if fields & {"images", "segmentation"}:
            behind, light = (None, None) if self._scenery is None else self._scenery.of(chosen)
            images, segmentation = self._renderer.render(position, shape, color, scale, visible, behind)
            if light is not None:
                images = np.rint(images * light).astype(np.uint8)
            batch.images = torch.from_numpy(images)
            if "segmentation" in fields:
                batch.segmentation = torch.from_numpy(segmentation.astype(np.int64))
        if "objects" in fields:
            is_agent = np.zeros(scale.shape, dtype=np.int64)
            is_agent[:, -1] = 1
            batch.objects = {
                "position": torch.from_numpy(flip_y(position).astype(np.float32)),
                "shape": torch.from_numpy(shape.astype(np.int64)),
                "color": torch.from_numpy(color.astype(np.int64)),
                "scale": torch.from_numpy(scale.astype(np.float32)),
                "is_agent": torch.from_numpy(is_agent),
                "visible": torch.from_numpy(visible),
            }
        return batch

    def provenance(self) -> dict[str, Any]:
        looks = [] if self._scenery is None else [one.describe() for one in self._scenery.appearances]
        return self.task.describe() | {"image_size": self.image_size[0]} | ({"appearances": looks} if looks else {})

    def state(self) -> dict[str, Any]:
        state = {name: getattr(self, name).copy() for name in ARRAYS}
        state["generator"] = self._generator.bit_generator.state
        return state if self._scenery is None else state | {"scenery": self._scenery.seeds.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError where the state is of another number of environments or of another task."""
        missing = {*ARRAYS, "generator", *(["scenery"] if self._scenery else [])} - state.keys()
        if missing:
            raise ValueError(f"SpriteWorld.set_state: the state lacks {sorted(missing)}.")
        for name in ARRAYS:
            value = np.asarray(state[name])
            own = getattr(self, name)
            if value.shape != own.shape:
                raise ValueError(
                    f"SpriteWorld.set_state: {name} is {value.shape}, this world needs {own.shape}; the state is of "
                    f"another number of environments or of another task."
                )
            setattr(self, name, value.astype(own.dtype))
        self._generator.bit_generator.state = state["generator"]
        if self._scenery is not None:
            self._scenery.start(np.arange(self.num_envs), np.asarray(state["scenery"]))

    def close(self) -> None:
        """Nothing to release."""


def scripted_actions(world: SpriteWorld) -> Integers:
    """(B,) the straight way to the target: along the axis on which it is farther away. For touch tasks."""
    offset = world.position[np.arange(world.num_envs), world.target] - world.agent
    across = np.abs(offset[:, 0]) > np.abs(offset[:, 1])
    return np.where(across, np.where(offset[:, 0] > 0, 3, 1), np.where(offset[:, 1] > 0, 0, 2))


def random_actions(world: SpriteWorld, generator: np.random.Generator) -> Integers:
    """(B,) uniform."""
    return generator.integers(world.num_actions, size=world.num_envs)

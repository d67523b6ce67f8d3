"""One episode at a time of a sprite world, for code that speaks gymnasium: `gymnasium.make("ocl/ObjectGoal-v0")`.

Importing this module registers the ids `ocl/ObjectGoal-v0`, `ocl/Push-v0`, `ocl/ObjectComparison-v0` and
`ocl/PropertyComparison-v0`.
Agents of this library use the batched `SpriteWorld` itself.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rl_probes.envs.push import Push
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison, ObjectGoal, PropertyComparison, Task

TASKS: tuple[type[Task], ...] = (ObjectGoal, Push, ObjectComparison, PropertyComparison)


class SpriteEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Frames (H W 3) uint8, four actions: up, left, down, right. The time limit is a truncation.

    `info` holds "is_success" (bool) and "progress" (float in [0, 1]); the reset's holds "progress".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, task: Task, image_size: int = 64, render_mode: str | None = None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'SpriteEnv: render_mode must be None or "rgb_array", got {render_mode!r}.')
        self.world = SpriteWorld(task, 1, image_size)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.action_space = spaces.Discrete(SpriteWorld.num_actions)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.world.reset(seeds=self.np_random.integers(2**63, size=1))
        return self._frame(), {"progress": float(self.world.progress()[0])}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        outcome = self.world.step(np.array([action]))
        info = {"is_success": bool(outcome.info["success"][0]), "progress": float(outcome.info["progress"][0])}
        terminated, truncated = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        return self._frame(), float(outcome.reward[0]), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        return None if self.render_mode is None else self._frame()

    def _frame(self) -> NDArray[np.uint8]:
        images = self.world.observe(frozenset({"images"})).images
        return np.ascontiguousarray(images[0].permute(1, 2, 0).numpy())


def _register() -> None:
    for task in TASKS:
        name = f"ocl/{task.__name__}-v0"
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=lambda task=task, **arguments: SpriteEnv(task(), **arguments))


_register()

"""One gymnasium environment between the beginning and the end of an episode: pixels when asked, no reset of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import error, spaces
from numpy.typing import NDArray
from PIL import Image

Integers = NDArray[np.int64]
Moves = Sequence[Any]
"""Per discrete action what the environment takes: a number, or a list of numbers."""


class Episode(gym.Wrapper[Any, Any, Any, Any]):
    """Environment `index` of several that receive the same calls, each with the arguments of all: a `call` of
    gymnasium's vector environments is alike for environments in this process and in processes of their own.

    Once over, an episode stands still until the next begins.

    Args:
        env: see `environment`.
        index: which entry of every argument is its own.
        moves: see `GymnasiumWorld`.
        image_size: (H, W) of the frames; None leaves them as they are drawn.

    Raises:
        ValueError: actions that are not discrete without `moves`, or moves that the environment does not accept.
    """

    fields = frozenset({"images"})

    def __init__(
        self, env: gym.Env[Any, Any], index: int, moves: Moves | None, image_size: tuple[int, int] | None
    ) -> None:
        super().__init__(env)
        self.index, self.size = index, image_size
        self.moves = _moves(env.action_space, moves)
        self._observation: Any = None
        self._frame: NDArray[np.uint8] | None = None
        self._over = (False, False)  # terminated, truncated
        self._told: dict[str, float] = {}

    @classmethod
    def environment(cls, id: str, arguments: dict[str, Any]) -> gym.Env[Any, Any]:
        """The environment, able to give frames: its observations are some, or it draws them.

        Raises:
            ImportError: a package that the environment needs is missing.
            ValueError: an unknown id, or an environment without pixels.
        """
        try:
            env = gym.make(id, disable_env_checker=True, **arguments)
            if _is_image(env.observation_space):
                return env
            modes = env.metadata.get("render_modes") or []
            env.close()
            if "rgb_array" not in modes:
                raise ValueError(
                    f"{id} has no pixels: its observations are {env.observation_space}, no uint8 images (H, W, 3), and "
                    f"it draws for {', '.join(map(str, modes)) or 'nobody'}, not as rgb_array."
                )
            return gym.make(id, render_mode="rgb_array", disable_env_checker=True, **arguments)
        except error.DependencyNotInstalled as missing:
            raise _missing(id, missing) from missing
        except error.Error as unknown:
            raise ValueError(f"gymnasium cannot make {id}: {' '.join(str(unknown).split())}") from unknown

    @property
    def num_actions(self) -> int:
        return len(self.moves)

    @property
    def origin(self) -> str:
        """The package that defines the environment."""
        return type(self.unwrapped).__module__.split(".")[0]

    def begin(self, chosen: NDArray[np.bool_], seeds: Integers) -> None:
        """Start the episode of `seeds[index]`, where `chosen[index]`."""
        if chosen[self.index]:
            self._observation, _ = self.env.reset(seed=int(seeds[self.index]))
            self._frame, self._over, self._told = None, (False, False), {}

    def advance(self, actions: Integers) -> tuple[float, bool, bool, dict[str, float]]:
        """One step -> reward, terminated, truncated, and what is told besides."""
        if any(self._over):
            return 0.0, *self._over, self._told
        self._observation, reward, terminated, truncated, info = self.env.step(self.moves[int(actions[self.index])])
        self._frame, self._over, self._told = None, (bool(terminated), bool(truncated)), self.told(info)
        return float(reward), *self._over, self._told

    def replay(self, seeds: Integers, actions: Integers, lengths: Integers) -> bool:
        """Play actions (B, T), the first `lengths[index]` of them, from the beginning -> whether that is the end."""
        self.begin(np.ones(len(seeds), dtype=bool), seeds)
        for step in range(lengths[self.index]):
            self.advance(actions[:, step])
        return any(self._over)

    def told(self, info: dict[str, Any]) -> dict[str, float]:
        """What a step says besides its reward: "success", where the environment tells."""
        success = info.get("is_success", info.get("success"))
        return {} if success is None else {"success": float(success)}

    def show(self, fields: frozenset[str], chosen: NDArray[np.bool_]) -> dict[str, NDArray[Any]] | None:
        """The present state as arrays, "images" (3 H W) uint8 among them where asked for; None where not `chosen`."""
        if not chosen[self.index]:
            return None
        return {"images": self.picture()} if "images" in fields else {}

    def picture(self) -> NDArray[np.uint8]:
        """(3 H W), drawn once per step.

        Raises:
            ImportError: a package that drawing needs is missing.
            ValueError: the environment draws something else than (H, W, 3) uint8.
        """
        if self._frame is None:
            try:
                drawn = self._observation if _is_image(self.env.observation_space) else self.env.render()
            except error.DependencyNotInstalled as missing:
                raise _missing(type(self.unwrapped).__name__, missing) from missing
            frame = np.asarray(drawn)
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(
                    f"{type(self.unwrapped).__name__} draws {frame.dtype} {frame.shape}, which is no uint8 (H, W, 3)."
                )
            if self.size is not None and frame.shape[:2] != self.size:
                frame = np.asarray(Image.fromarray(frame).resize(self.size[::-1], Image.Resampling.BILINEAR))
            self._frame = np.ascontiguousarray(frame.transpose(2, 0, 1))
        return self._frame


def make(
    kind: type[Episode],
    id: str,
    arguments: dict[str, Any],
    moves: Moves | None,
    image_size: tuple[int, int] | None,
    index: int,
) -> Episode:
    """Here, without torch, which processes of single environments would take seconds to import."""
    return kind(kind.environment(id, arguments), index, moves, image_size)


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def _moves(space: spaces.Space[Any], moves: Moves | None) -> list[Any]:
    """What the environment takes, per discrete action."""
    if moves is None:
        if not isinstance(space, spaces.Discrete):
            raise ValueError(
                f"the environment takes {space}, but agents choose among discrete actions; give `moves`, what each of "
                "these stands for."
            )
        return [space.start + action for action in range(int(space.n))]
    kind = np.dtype(space.dtype)
    taken = [np.asarray(move, kind) if space.shape else kind.type(move) for move in moves]
    refused = [move for move, own in zip(moves, taken, strict=True) if own not in space]
    if refused or not taken:
        raise ValueError(f"moves must be actions of {space}, at least one; got {refused[0] if refused else 'none'}.")
    return taken


def _missing(name: str, problem: Exception) -> ImportError:
    return ImportError(f"{name} needs another package: {' '.join(str(problem).split())}")

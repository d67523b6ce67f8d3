"""Procgen's sixteen games (Cobbe et al. 2020) through EnvPool, as one batched world that can be saved and continued.

The original package has no build for the Pythons of this project. `benchmarks/procgen_frames.py` compares: EnvPool
1.2.5 pays the rewards of procgen 0.10.7 and draws its frames, but for about one pixel of some frames in five games.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.shapes import Batch
from rl_probes.envs import procgen_library
from rl_probes.envs.procgen_scores import EASY
from rl_probes.envs.world import Outcome, World

GAMES = tuple(EASY)
MODES = ("easy", "hard", "extreme", "memory", "exploration")
LEVELS = 2**31 - 1
"""How many levels there are when their number is not limited."""

Integers = NDArray[np.int64]


class ProcgenWorld(World):
    """B environments of one game.

    Frames are (3 64 64), actions 0..14. Time-outs are truncations. Each step reports "level_seed" (int64) and
    "success" (bool: the episode ended with its level completed). A finished environment stands still, at its last
    frame, until it is reset.

    Seeds: `reset(seeds=...)` plays level `start_level + seed % num_levels` (`seed % LEVELS` where levels are not
    limited), so the seeds 0..num_levels - 1 are the levels of a split. Other resets let EnvPool draw the level.

    Args:
        game: one of `GAMES`.
        num_envs: B.
        seed: of the order of levels.
        num_levels, start_level: the split; 0 levels means all.
        distribution_mode: "easy" or "hard"; some games have "extreme", "memory" or "exploration".
        use_backgrounds, restrict_themes, use_monochrome_assets: Procgen's own shifts of appearance; not every game
            has themes to restrict.
        threads: of EnvPool; as many as there are cores where None.

    Raises:
        ImportError: EnvPool or Qt is missing; the sentence says what to install.
        ValueError: an unknown game or mode, a mode that the game lacks, or a negative number.
    """

    num_actions = 15
    image_size = (64, 64)
    fields = frozenset({"images"})

    def __init__(
        self,
        game: str,
        num_envs: int = 1,
        *,
        seed: int = 0,
        num_levels: int = 0,
        start_level: int = 0,
        distribution_mode: str = "easy",
        use_backgrounds: bool = True,
        restrict_themes: bool = False,
        use_monochrome_assets: bool = False,
        threads: int | None = None,
    ) -> None:
        if game not in GAMES:
            raise ValueError(f"ProcgenWorld: game must be among {', '.join(GAMES)}; got {game!r}.")
        if distribution_mode not in MODES:
            raise ValueError(
                f"ProcgenWorld: distribution_mode must be among {', '.join(MODES)}; {distribution_mode!r}."
            )
        if num_envs < 1 or min(seed, num_levels, start_level) < 0:
            raise ValueError(
                f"ProcgenWorld: num_envs must be at least 1 and seed, num_levels and start_level at least 0, got "
                f"{num_envs}, {seed}, {num_levels} and {start_level}."
            )
        self._envpool = procgen_library.load()
        self._id = f"{game.capitalize()}{distribution_mode.capitalize()}-v0"
        if self._id not in self._envpool.list_all_envs():
            raise ValueError(f"ProcgenWorld: {game} has no distribution_mode {distribution_mode!r}.")
        self.game, self.num_envs, self.seed = game, num_envs, seed
        self.num_levels, self.start_level = num_levels, start_level
        self._look = {
            "use_backgrounds": use_backgrounds,
            "restrict_themes": restrict_themes,
            "use_monochrome_assets": use_monochrome_assets,
        }
        self.score_range = EASY[game] if distribution_mode == "easy" else None
        self._threads = min(num_envs, threads or os.cpu_count() or 1)
        self._private: dict[int, Any] = {}  # environments whose level was asked for, each with a pool of its own
        self._begin()
        self.reset()

    def provenance(self) -> dict[str, Any]:
        """Everything that decides what is played and drawn, for manifests and cards."""
        split = {"num_levels": self.num_levels, "start_level": self.start_level}
        return {"environment": self._id, "seed": self.seed, **split, **self._look, **procgen_library.build()}

    def reset(self, indices: Integers | None = None, seeds: Integers | None = None) -> None:
        """Raises ValueError where there is not one seed per index, TypeError where an index is no integer."""
        chosen = self._chosen(indices)
        if not len(chosen):
            return
        if seeds is None:
            self._draw(chosen)
            return
        seeds = np.asarray(seeds)
        if seeds.shape != chosen.shape:
            raise ValueError(f"ProcgenWorld.reset: {len(chosen)} environments need one seed each, got {seeds.shape}.")
        for index, seed in zip(chosen, seeds, strict=True):
            level = self.start_level + int(seed) % self.num_levels if self.num_levels else int(seed) % LEVELS
            self._fix(int(index), level)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Raises ValueError where an action is not among 0..14."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < self.num_actions)).all():
            raise ValueError(f"ProcgenWorld.step: needs {self.num_envs} actions in 0..14, got {actions}.")
        reward = self._advance(np.flatnonzero(~(self._terminated | self._truncated)), actions)
        info = {"level_seed": self._level.copy(), "success": self._success.copy()}
        return Outcome(reward, self._terminated.copy(), self._truncated.copy(), info)

    def observe(self, fields: frozenset[str], indices: Integers | None = None) -> Batch:
        """Raises ValueError for anything but "images": EnvPool tells nothing else."""
        if not fields <= self.fields:
            raise ValueError(f"ProcgenWorld cannot observe {sorted(fields - self.fields)}, only images.")
        return Batch(torch.from_numpy(self._frames[self._chosen(indices)]))

    def state(self) -> dict[str, Any]:
        """Small: per environment, how many levels were drawn, and the level and the actions of the present episode."""
        return {
            "provenance": self.provenance(),
            "drawn": self._drawn.copy(),
            "fixed": self._fixed.copy(),
            "level": self._level.copy(),
            "length": self._length.copy(),
            "actions": self._actions[:, : self._length.max()].copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Play back to the saved moment: EnvPool cannot save its games, but they depend on level and actions alone.

        Costs one reset per episode that was drawn so far (all environments together; about 50 microseconds each) and
        one step per action of the present episodes.

        Raises:
            ValueError: a state of another world, or one that this build of EnvPool does not reproduce.
        """
        expected = self.provenance()
        versions = procgen_library.build().keys()
        for name, value in expected.items():
            if name not in versions and state["provenance"].get(name) != value:
                raise ValueError(
                    f"ProcgenWorld.set_state: the state has {name} = {state['provenance'].get(name)!r}, this world "
                    f"{value!r}."
                )
        drawn, fixed = np.asarray(state["drawn"]), np.asarray(state["fixed"])
        level, length = np.asarray(state["level"]), np.asarray(state["length"])
        if drawn.shape != (self.num_envs,):
            raise ValueError(f"ProcgenWorld.set_state: {len(drawn)} environments, this world has {self.num_envs}.")
        procgen_library.check_build({name: state["provenance"][name] for name in versions}, "the state")
        self.close()
        self._begin()
        for count in range(drawn.max()):
            self._draw(np.flatnonzero(drawn > count))
        for index in np.flatnonzero(fixed):
            self._fix(int(index), int(level[index]))
        if not np.array_equal(self._level, level):
            raise ValueError("ProcgenWorld.set_state: this EnvPool draws other levels than the one that was saved.")
        for count in range(length.max(initial=0)):
            self._advance(np.flatnonzero(length > count), np.asarray(state["actions"])[:, count])

    def close(self) -> None:
        for pool in (self._pool, *self._private.values()):
            pool.close()
        self._private = {}

    def _begin(self) -> None:
        """A fresh pool and nothing played."""
        count = self.num_envs
        self._pool = self._make(count, self.seed % 2**31, self.num_levels, self.start_level, self._threads)
        self._frames = np.zeros((count, 3, *self.image_size), dtype=np.uint8)
        self._terminated, self._truncated = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self._success, self._fixed = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        self._level, self._length = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        self._drawn = np.zeros(count, dtype=np.int64)
        self._actions = np.zeros((count, self._pool.config["max_episode_steps"]), dtype=np.uint8)

    def _make(self, num_envs: int, seed: int, num_levels: int, start_level: int, threads: int) -> Any:
        return self._envpool.make_gymnasium(
            self._id,
            num_envs=num_envs,
            seed=seed,
            num_levels=num_levels,
            start_level=start_level,
            num_threads=threads,
            **self._look,
        )

    def _draw(self, indices: Integers) -> None:
        """The next level of EnvPool's own order."""
        frames, info = self._pool.reset(indices.astype(np.int32))
        order = info["env_id"]
        self._started(order, frames, info["level_seed"])
        self._drawn[order] += 1
        self._fixed[order] = False
        for index in indices:
            if int(index) in self._private:
                self._private.pop(int(index)).close()

    def _fix(self, index: int, level: int) -> None:
        """Level `level`, from a pool that has no other."""
        if index in self._private:
            self._private[index].close()
        pool = self._private[index] = self._make(1, 0, 1, level, 1)
        frames, info = pool.reset()
        self._started(np.array([index]), frames, info["level_seed"])
        self._fixed[index] = True

    def _started(self, indices: Integers, frames: NDArray[np.uint8], level: NDArray[np.int32]) -> None:
        self._frames[indices], self._level[indices] = frames, level
        self._length[indices] = 0
        for flags in (self._terminated, self._truncated, self._success):
            flags[indices] = False

    def _advance(self, indices: Integers, actions: NDArray[Any]) -> NDArray[np.float32]:
        """Step `indices`, none of them finished; (B,) rewards, 0 for the others."""
        self._actions[indices, self._length[indices]] = actions[indices]
        self._length[indices] += 1
        reward = np.zeros(self.num_envs, dtype=np.float32)
        shared = indices[~self._fixed[indices]]
        if len(shared):
            result = self._pool.step(actions[shared].astype(np.int32), shared.astype(np.int32))
            self._record(result[-1]["env_id"], result, reward)
        for index in indices[self._fixed[indices]]:
            result = self._private[int(index)].step(actions[index : index + 1].astype(np.int32))
            self._record(np.array([index]), result, reward)
        return reward

    def _record(self, indices: Integers, result: tuple[Any, ...], reward: NDArray[np.float32]) -> None:
        frames, paid, terminated, truncated, info = result
        self._frames[indices], reward[indices] = frames, paid
        self._terminated[indices], self._truncated[indices] = terminated, truncated & ~terminated
        self._success[indices] = terminated & (info["prev_level_complete"] != 0)

"""Any gymnasium environment that has pixels, by its id, as one batched world that can be saved and continued."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from ocl.shapes import Batch
from rl_probes.envs import mujoco_library
from rl_probes.envs.episode import Episode, Moves, make
from rl_probes.envs.world import Outcome, World

Integers = NDArray[np.int64]
SEEDS = 2**31
"""Seeds are taken modulo this number: simulators written in C accept no larger ones."""


class GymnasiumWorld(World):
    """B environments of one id.

    Frames are the observations where these are uint8 images (H, W, 3), and drawn as "rgb_array" otherwise, only when
    somebody asks. Steps report "success" where the environment does. A finished environment stands still, at its last
    frame, until it is reset.

    A saved state holds seeds and actions, from which the present episodes are played again. Environments that draw
    random numbers besides those of their seed do not come back to the same frames: `set_state` says so.

    Args:
        id: as `gymnasium.make` takes it, "package:Name-v0" where a package has to be imported first.
        num_envs: B.
        image_size: (H, W) that frames are resized to (bilinear, antialiased); None keeps the environment's own.
        seed: of the generator that new episodes take their seeds from.
        arguments: further ones of `gymnasium.make`, such as {"max_episode_steps": 100}; not `render_mode`.
        moves: the actions that 0, 1, 2, ... stand for. Agents here choose among discrete actions, so continuous ones
            need such a list, [[-2], [0], [2]] for instance; discrete ones may be restricted by it.
        processes: give every environment a process of its own.

    Raises:
        ImportError: a package that the environment needs is missing.
        ChildProcessError: later, where the process of an environment dies.
        ValueError: an unknown id, an environment without pixels, actions that are not discrete without `moves`, or a
            number below 1.
    """

    episode: type[Episode] = Episode

    def __init__(
        self,
        id: str,
        num_envs: int = 1,
        image_size: tuple[int, int] | None = None,
        *,
        seed: int = 0,
        arguments: Mapping[str, Any] | None = None,
        moves: Moves | None = None,
        processes: bool = False,
    ) -> None:
        if min(num_envs, *(image_size or (1, 1))) < 1:
            raise ValueError(
                f"{type(self).__name__}: num_envs and image_size must be at least 1, got {num_envs} and {image_size}."
            )
        size = None if image_size is None else (image_size[0], image_size[1])
        mujoco_library.load_triton()
        self.id, self.num_envs, self.fields = id, num_envs, self.episode.fields
        self.arguments = dict(arguments or {})
        each = [partial(make, self.episode, id, self.arguments, moves, size, index) for index in range(num_envs)]
        self._vector: VectorEnv[Any, Any, Any] = (
            AsyncVectorEnv(each, shared_memory=False, context="forkserver", autoreset_mode=AutoresetMode.DISABLED)
            if processes
            else SyncVectorEnv(each, autoreset_mode=AutoresetMode.DISABLED)
        )
        self.num_actions = int(self._call("num_actions")[0])
        self._moves = None if moves is None else [np.asarray(move).tolist() for move in moves]
        self._generator = np.random.default_rng(seed)
        self._seeds = np.zeros(num_envs, dtype=np.int64)
        self._actions: list[list[int]] = [[] for _ in range(num_envs)]  # of the present episodes
        self._over = np.zeros(num_envs, dtype=bool)
        self.reset()
        height, width = self.observe(frozenset({"images"}), np.array([0])).images.shape[-2:]
        self.image_size = (height, width)

    def provenance(self) -> dict[str, Any]:
        modules: dict[str, Any] = {name: sys.modules.get(name) for name in ("gymnasium", self._call("origin")[0])}
        versions = {name: module.__version__ for name, module in modules.items() if hasattr(module, "__version__")}
        chosen = {"arguments": self.arguments or None, "moves": self._moves}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return {"environment": self.id, "image_size": list(self.image_size), **chosen, **versions}

    def reset(self, indices: Integers | None = None, seeds: Integers | None = None) -> None:
        """Raises ValueError where there is not one seed per index, TypeError where an index is no integer."""
        chosen = self._chosen(indices)
        if not len(chosen):
            return
        seeds = self._generator.integers(SEEDS, size=len(chosen)) if seeds is None else np.asarray(seeds)
        if seeds.shape != chosen.shape:
            raise ValueError(
                f"{type(self).__name__}.reset: {len(chosen)} environments need one seed each, got {seeds.shape}."
            )
        self._seeds[chosen] = seeds % SEEDS
        self._over[chosen] = False
        for index in chosen:
            self._actions[index] = []
        self._call("begin", self._mask(chosen), self._seeds)

    def step(self, actions: NDArray[Any]) -> Outcome:
        """Raises ValueError where an action is not among 0..num_actions - 1."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < self.num_actions)).all():
            raise ValueError(
                f"{type(self).__name__}.step: needs {self.num_envs} actions in 0..{self.num_actions - 1}, got "
                f"{actions}."
            )
        for index in np.flatnonzero(~self._over):
            self._actions[index].append(int(actions[index]))
        reward, terminated, truncated, told = zip(*self._call("advance", actions), strict=True)
        names = {name for one in told for name in one}
        info: dict[str, NDArray[Any]] = {
            name: np.array([one.get(name, 0.0) for one in told], bool if name == "success" else np.float32)
            for name in names
        }
        outcome = Outcome(np.array(reward, np.float32), np.array(terminated), np.array(truncated), info)
        self._over = outcome.terminated | outcome.truncated
        return outcome

    def observe(self, fields: frozenset[str], indices: Integers | None = None) -> Batch:
        """Raises ValueError for a field that the environment does not know."""
        if not fields <= self.fields:
            raise ValueError(
                f"{type(self).__name__} cannot observe {sorted(fields - self.fields)}; it has {sorted(self.fields)}."
            )
        chosen = self._chosen(indices)
        if not len(chosen):
            return Batch(torch.zeros((0, 3, *self.image_size), dtype=torch.uint8))
        shown = self._call("show", fields, self._mask(chosen))
        arrays = {name: np.stack([shown[index][name] for index in chosen]) for name in shown[chosen[0]]}
        images = arrays.pop("images", np.zeros((len(chosen), 3, 0, 0), np.uint8))
        labels = arrays.pop("segmentation", None)
        objects = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Batch(torch.from_numpy(images), None if labels is None else torch.from_numpy(labels), objects)

    def state(self) -> dict[str, Any]:
        """Small: seed and actions of the present episodes, and their frames to compare with."""
        lengths = np.array([len(actions) for actions in self._actions])
        actions = np.zeros((self.num_envs, lengths.max()), dtype=np.int64)
        for index, played in enumerate(self._actions):
            actions[index, : len(played)] = played
        return {
            "provenance": self.provenance(),
            "generator": self._generator.bit_generator.state,
            "seeds": self._seeds.copy(),
            "lengths": lengths,
            "actions": actions,
            "images": self._frames(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Play the saved episodes up to the saved moment; warns where that leads to other frames.

        Raises:
            ValueError: a state of another environment, or of another number of them.
        """
        saved, own = state["provenance"], self.provenance()
        for name in ("environment", "arguments", "moves", "image_size"):
            if json.dumps(saved.get(name)) != json.dumps(own.get(name)):  # tuples come back as lists
                raise ValueError(
                    f"{type(self).__name__}.set_state: the state has {name} = {saved.get(name)!r}, this world "
                    f"{own.get(name)!r}."
                )
        seeds, lengths = np.asarray(state["seeds"]), np.asarray(state["lengths"])
        if seeds.shape != (self.num_envs,):
            raise ValueError(
                f"{type(self).__name__}.set_state: {len(seeds)} environments, this world has {self.num_envs}."
            )
        actions = np.asarray(state["actions"])
        self._generator.bit_generator.state = state["generator"]
        self._seeds = seeds.copy()
        self._actions = [actions[index, :length].tolist() for index, length in enumerate(lengths)]
        self._over = np.array(self._call("replay", seeds, actions, lengths))
        if not np.array_equal(self._frames(), state["images"]):
            warnings.warn(
                f"{self.id} does not repeat its episodes from seed and actions, in this build at least: what follows "
                "differs from what would have followed in a run that was not interrupted.",
                stacklevel=2,
            )

    def close(self) -> None:
        self._vector.close(terminate=True)  # processes, if any: one that died would not answer

    def _frames(self) -> NDArray[np.uint8]:
        frames: NDArray[np.uint8] = self.observe(frozenset({"images"})).images.numpy()
        return frames

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        assert isinstance(self._vector, AsyncVectorEnv | SyncVectorEnv)
        try:
            return self._vector.call(name, *arguments)
        except (EOFError, ConnectionError) as error:
            raise ChildProcessError(
                f"{self.id}: the process of an environment died; start the run again to continue from its snapshot."
            ) from error

    def _mask(self, indices: Integers) -> NDArray[np.bool_]:
        mask = np.zeros(self.num_envs, dtype=bool)
        mask[indices] = True
        return mask

"""Who plays while frames are collected: nobody in particular, somebody who knows the way, trained agents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.describe import describe_part
from ocl.shards import sha256_of
from rl_probes.agent import Agent
from rl_probes.envs.memory import SlotMemory
from rl_probes.envs.world import World
from rl_probes.runs import read_run

Integers = NDArray[np.int64]

Expert = Callable[[Any], Any]  # of arrays, a type that command lines cannot build
"""world -> (B,) int64, what somebody who knows the way does, such as `rl_probes.envs.sprite_world.scripted_actions`."""


class Player(ABC):
    """Chooses actions.

    share: how many episodes it plays, in proportion to the shares of the players beside it.
    requires: the fields of `Batch` that it looks at.
    """

    share: float
    requires: frozenset[str] = frozenset()

    @abstractmethod
    def actions(self, world: World, indices: Integers, generator: np.random.Generator) -> Integers:
        """What it does in the environments `indices` (n): (n,)."""

    def check(self, world: World) -> None:
        """Raises ValueError where it cannot play in this world."""
        if missing := self.requires - world.fields:
            raise ValueError(
                f"{type(self).__name__} needs {sorted(missing)}, which {type(world).__name__} cannot show."
            )

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything that decides what it does, in JSON's types and without paths."""


class Scripted(Player):
    """A function of the world, such as `rl_probes.envs.sprite_world.scripted_actions`, or an object that is called like
    one, such as `rl_probes.cloning.ClonedPlayer`."""

    def __init__(self, expert: Expert, share: float = 1.0) -> None:
        self.expert, self.share = expert, share

    def actions(self, world: World, indices: Integers, generator: np.random.Generator) -> Integers:
        return np.asarray(self.expert(world), np.int64)[indices]

    def describe(self) -> dict[str, Any]:
        return {"scripted": describe_part(self.expert), "share": self.share}


class RandomPlayer(Player):
    """Uniform over the actions: a part of a mixture with players that know more."""

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def actions(self, world: World, indices: Integers, generator: np.random.Generator) -> Integers:
        return generator.integers(world.num_actions, size=len(indices))

    def describe(self) -> dict[str, Any]:
        return {"random": True, "share": self.share}


class TrainedAgent(Player):
    """The agent that `rl-probes ppo` left in a run's folder.

    Args:
        run: the folder.
        most_likely: take the most likely action instead of a sampled one.
        share: see `Player`.
        trust: also build classes outside the allowed packages that the run's config names.

    Raises:
        FileNotFoundError, ValueError: no finished run there, or one that cannot be built again.
    """

    def __init__(self, run: Path, most_likely: bool = False, share: float = 1.0, trust: bool = False) -> None:
        found = read_run(run, trust=trust)
        self._actions, self._memory = found.world.num_actions, _memory_of(found.world)
        found.world.close()
        weights = Path(run) / "agent.safetensors"
        self.agent = Agent.load(weights, found.encoder, found.pooling)
        self.requires = self.agent.requires
        self.most_likely, self.share = most_likely, share
        self._weights = sha256_of(weights)

    def check(self, world: World) -> None:
        super().check(world)
        if world.num_actions != self._actions:
            raise ValueError(
                f"the agent knows {self._actions} actions, {type(world).__name__} has {world.num_actions}."
            )
        memory = _memory_of(world)
        if "objects" in self.requires and memory != self._memory:
            raise ValueError(
                f"the agent was trained on {self._memory} and cannot read {memory}; let it play in a world as its own."
            )

    def actions(self, world: World, indices: Integers, generator: np.random.Generator) -> Integers:
        probabilities = self.agent.action_probabilities(world.observe(self.requires, indices))  # (n A)
        if self.most_likely:
            return probabilities.argmax(axis=1)
        below = (probabilities.cumsum(axis=1) <= generator.random((len(indices), 1))).sum(axis=1)
        return np.minimum(below, world.num_actions - 1)  # rounding may leave the sum under one

    def describe(self) -> dict[str, Any]:
        encoder = self.agent.observer.encoder.fingerprint
        facts = {"agent": self._weights, "encoder": encoder, "most_likely": self.most_likely}
        return facts | {"share": self.share}


def _memory_of(world: World) -> str:
    """What the "objects" of a world are, for those who read them."""
    if not isinstance(world, SlotMemory):
        return "the objects of a world without memory"
    carried = ", carried over" if world.carry else ""
    return f"slots of the encoder {world.encoder.fingerprint[:12]}, {world.frames} frames of them{carried}"

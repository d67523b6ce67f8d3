"""Episodes on a fixed list of seeds that every agent shares, so that the difficulty of an episode cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ocl.shapes import Batch
from rl_probes.envs.world import World


class Actor(Protocol):
    """Whatever can be evaluated: `rl_probes.agent.Agent`, `rl_probes.controls.RandomAgent`, yours."""

    @property
    def requires(self) -> frozenset[str]: ...

    def action_probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """(B A), rows sum to one."""
        ...


@dataclass(frozen=True)
class Episodes:
    """One entry per seed, in the order of the list. success is NaN where the world does not report it.

    action_mode: "sampled" or "most likely".
    """

    seeds: NDArray[np.int64]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    success: NDArray[np.float64]
    action_mode: str


def evaluate(
    actor: Actor, world: World, seeds: Sequence[int] | NDArray[np.int64], *, most_likely: bool = False
) -> Episodes:
    """Play one episode per seed, many at a time.

    Each episode samples its actions from a generator of its own seed: the result does not depend on how many
    environments run side by side, and two agents that agree on the probabilities act alike.

    most_likely: take the most likely action instead of a sampled one; published results differ in this, so it is kept
        in the result.

    Raises:
        ValueError: no seeds, a seed twice, negative or no integer, a field that the world cannot give, or an actor of
            other actions than the world's.
    """
    queue = np.asarray(seeds)
    if queue.ndim != 1 or len(queue) == 0 or len(np.unique(queue)) != len(queue):
        raise ValueError("seeds must be a list of different integers, at least one.")
    if not np.issubdtype(queue.dtype, np.integer) or queue.min() < 0:
        raise ValueError(f"seeds must be integers that are not negative, got {queue[:4].tolist()}.")
    queue = queue.astype(np.int64)
    if actor.requires - world.fields:
        raise ValueError(f"the agent requires {sorted(actor.requires - world.fields)}, which this world cannot give.")

    returns, lengths = np.zeros(len(queue)), np.zeros(len(queue), np.int64)
    success = np.full(len(queue), np.nan)
    playing = np.arange(world.num_envs)  # environment -> position in the queue; beyond its end: idle
    active = np.flatnonzero(playing < len(queue))
    world.reset(active, queue[active])
    generators = {index: _generator(queue[index]) for index in active}
    waiting = len(active)

    while len(active):
        probabilities = _probabilities(actor, world, world.observe(actor.requires, active))
        actions = np.zeros(world.num_envs, np.int64)
        if most_likely:
            actions[active] = probabilities.argmax(axis=1)
        else:
            uniform = np.array([generators[index].random() for index in active])
            below = (probabilities.cumsum(axis=1) <= uniform[:, None]).sum(axis=1)
            actions[active] = np.minimum(below, world.num_actions - 1)  # rounding may leave the sum under one

        outcome = world.step(actions)
        positions = playing[active]
        returns[positions] += outcome.reward[active]
        lengths[positions] += 1
        finished = active[(outcome.terminated | outcome.truncated)[active]]
        if "success" in outcome.info:
            success[playing[finished]] = outcome.info["success"][finished]
        playing[finished] = waiting + np.arange(len(finished))
        waiting += len(finished)
        restarted = finished[playing[finished] < len(queue)]
        if len(restarted):
            world.reset(restarted, queue[playing[restarted]])
        generators |= {index: _generator(queue[playing[index]]) for index in restarted}
        active = np.flatnonzero(playing < len(queue))
    return Episodes(queue, returns, lengths, success, "most likely" if most_likely else "sampled")


def _probabilities(actor: Actor, world: World, batch: Batch) -> NDArray[np.float64]:
    """(n A)"""
    found = actor.action_probabilities(batch)
    if found.shape[1] != world.num_actions:
        raise ValueError(
            f"the agent chooses among {found.shape[1]} actions, {type(world).__name__} has {world.num_actions}."
        )
    return found


def _generator(seed: int) -> np.random.Generator:
    """Of an episode's actions; apart from whatever the world does with the same seed."""
    return np.random.default_rng([int(seed), 0xAC7])


@dataclass(frozen=True)
class Recording:
    """One watched episode. images: (T 3 H W) uint8, terminal frame included, so T = length + 1; actions: (T - 1,)."""

    images: NDArray[np.uint8]
    actions: NDArray[np.int64]
    total_reward: float
    success: float


def record_episode(actor: Actor, world: World, seed: int) -> Recording:
    """Play `seed` in the first environment as `evaluate` would, and keep the frames. Slot masks: encode the images."""
    generator = _generator(seed)
    first = np.array([0])
    world.reset(first, np.array([seed]))
    images, actions, total = [], [], 0.0
    while True:
        batch = world.observe(actor.requires | {"images"}, first)
        images.append(batch.images[0].numpy())
        probabilities = _probabilities(actor, world, batch)[0]
        actions.append(min(int((probabilities.cumsum() <= generator.random()).sum()), world.num_actions - 1))
        outcome = world.step(np.full(world.num_envs, actions[-1]))
        total += float(outcome.reward[0])
        if outcome.terminated[0] or outcome.truncated[0]:
            images.append(world.observe(frozenset({"images"}), first).images[0].numpy())
            success = float(outcome.info["success"][0]) if "success" in outcome.info else float("nan")
            return Recording(np.stack(images), np.array(actions), total, success)

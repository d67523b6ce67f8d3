"""Who plays the sprite tasks: experts, and some who mean to be taken for one. Each maps a world to (B,) actions.

All are functions of the world's present state alone; `rl_probes.players.Scripted` makes players of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rl_probes.envs.push import GOAL, Push
from rl_probes.envs.sprite_world import MOVES, SpriteWorld, scripted_actions
from rl_probes.envs.tasks import AGENT_SCALE, CONTACT, Floats, Integers

UP, LEFT, DOWN, RIGHT = range(4)
STEP = 0.05
CELLS = 21
"""Along each side of the grid of places that steps lead to: the walls lie 17 steps apart, with room on both sides."""
FAR = np.int16(10_000)
"""Steps to a place that cannot be reached."""
HOVER = 0.1
"""How far beyond contact a near miss turns back."""


def expert_actions(world: SpriteWorld) -> Integers:
    """The way of somebody who knows the task: straight to the target of a touch task, around and behind what is to be
    pushed."""
    return push_actions(world) if isinstance(world.task, Push) else scripted_actions(world)


def push_actions(world: SpriteWorld) -> Integers:
    """Push the blue square left and down into its corner: go, around all objects, to the nearest place from which the
    next step pushes it along an axis where way is left and nothing stands against it, and push. Where no free way
    leads to one, the action turns with the time."""
    objects, own = world.position, np.arange(world.num_envs)
    target, others = objects[own, world.target], np.arange(objects.shape[1]) != world.target[:, None]
    reach = (world.scale + AGENT_SCALE) / 2  # (B M) of the agent's contact with each
    low, high = AGENT_SCALE / 2, 1 - AGENT_SCALE / 2
    here = np.floor((world.agent - low) / STEP + 0.5).astype(np.int64) + 1  # (B 2) the agent's cell
    steps = np.stack(np.meshgrid(*[np.arange(CELLS)] * 2, indexing="ij"), -1) - here[:, None, None]
    places = world.agent[:, None, None] + STEP * steps  # (B n n 2), everywhere that steps lead
    free = ((places > low - STEP) & (places < high + STEP)).all(-1)
    places = np.clip(places, low, high)
    for m in range(objects.shape[1]):
        free &= np.linalg.norm(places - objects[:, None, None, m], axis=-1) > reach[:, None, None, m] - 1e-6
    free[own, here[:, 0], here[:, 1]] = True
    cost = np.full(free.shape, FAR, np.int16)
    push = np.full(world.num_envs, -1)
    touch = reach[own, world.target]
    for axis, action in ((0, LEFT), (1, DOWN)):
        after = target + MOVES[action]
        gaps = (
            np.linalg.norm(objects - after[:, None], axis=-1) - (world.scale + world.scale[own, world.target, None]) / 2
        )
        wanted = (target[:, axis] - GOAL > STEP / 2) & ((gaps > 0) | ~others).all(1)
        offset = places + MOVES[action] - target[:, None, None]
        behind = free & wanted[:, None, None] & (offset[..., axis] > 0)
        behind &= np.linalg.norm(offset, axis=-1) < touch[:, None, None] - 1e-6
        cost[behind] = 0
        push = np.where(behind[own, here[:, 0], here[:, 1]], action, push)
    for _ in range(4 * CELLS):
        spread = np.where(free, np.minimum(cost, _nearest_neighbour(cost) + 1), FAR).astype(np.int16)
        if np.array_equal(spread, cost):
            break
        cost = spread
    sides = ((0, 1), (-1, 0), (0, -1), (1, 0))
    around = np.stack([cost[own, here[:, 0] + dx, here[:, 1] + dy] for dx, dy in sides], 1)
    walk = np.where((around < FAR).any(1), around.argmin(1), (world.steps + own) % 4)
    return np.asarray(np.where(push >= 0, push, walk))


def wrong_object_actions(world: SpriteWorld) -> Integers:
    """Straight to the nearest object that is not the target: ends a touch task as a failure. For tasks with several
    objects."""
    distance = np.linalg.norm(world.position - world.agent[:, None], axis=-1)  # (B M)
    distance[np.arange(world.num_envs), world.target] = np.inf
    return _towards(world.position[np.arange(world.num_envs), distance.argmin(1)] - world.agent)


def near_miss_actions(world: SpriteWorld) -> Integers:
    """Like the expert of a touch task until just before contact, then back and forth: high progress, no success."""
    offset = world.position[np.arange(world.num_envs), world.target] - world.agent
    near = np.linalg.norm(offset, axis=1) < CONTACT + HOVER
    return _towards(np.where(near[:, None], -offset, offset))


def oscillating_actions(world: SpriteWorld, period: int = 8) -> Integers:
    """Half a period of the expert's actions, then as many of their opposites: collects whatever pays for approaching
    and does not charge for leaving."""
    forwards = world.steps % period < period // 2
    actions = expert_actions(world)
    return np.asarray(np.where(forwards, actions, (actions + 2) % 4))


def stages(world: SpriteWorld) -> Integers:
    """(B,) how many stages of the task lie behind: of pushing, 1 once the agent is at the blue square (its next step
    could move it); touching has a single stage. All are over at success."""
    if not isinstance(world.task, Push):
        return np.zeros(world.num_envs, dtype=np.int64)
    own = np.arange(world.num_envs)
    distance = np.linalg.norm(world.position[own, world.target] - world.agent, axis=1)
    reach = (world.scale[own, world.target] + AGENT_SCALE) / 2 + STEP
    return np.asarray(distance < reach, np.int64)


def _towards(offset: Floats) -> Integers:
    """offset (B 2) -> (B,) the action along the axis on which it is larger."""
    across = np.abs(offset[:, 0]) > np.abs(offset[:, 1])
    return np.where(across, np.where(offset[:, 0] > 0, RIGHT, LEFT), np.where(offset[:, 1] > 0, UP, DOWN))


def _nearest_neighbour(cost: NDArray[np.int16]) -> NDArray[np.int16]:
    """(B n n) -> (B n n) the least cost of the four neighbours."""
    padded = np.pad(cost, ((0, 0), (1, 1), (1, 1)), constant_values=FAR)
    sides = (padded[:, 2:, 1:-1], padded[:, :-2, 1:-1], padded[:, 1:-1, 2:], padded[:, 1:-1, :-2])
    return np.asarray(np.minimum.reduce(sides))

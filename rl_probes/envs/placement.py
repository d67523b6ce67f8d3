"""Where the sprites of a new episode go: all episodes at once, each from its own stream of random numbers."""

from __future__ import annotations

import numpy as np

from rl_probes.envs.streams import Streams
from rl_probes.envs.tasks import AGENT_SCALE, Floats, Task

START = 0.5
"""Both coordinates of the agent's first place."""
GAP = 0.08
"""Least distance between two placed sprites, if they were discs as wide as their scale."""
MOST_TRIES = 300
"""Of one object before its scene is begun anew; four objects of scale 0.15 were never seen to need 50 in all."""
MOST_DRAWS = 20_000
"""Of one scene before it counts as impossible."""


def place(streams: Streams, scale: Floats, task: Task) -> Floats:
    """scale (n M) -> centres (n M 2) by rejection, object after object, each uniform inside the walls' margin.

    A centre is refused when it is nearer than the half scales of both plus `GAP` to any other sprite of the scene,
    the agent included. As in the original, objects not yet placed sit at (0, 0), which cuts a sliver off that corner.
    A scene in which the next object finds no room is begun anew.

    Raises:
        ValueError: the objects do not fit.
    """
    count, objects = scale.shape
    fixed, places = task.fixtures()
    others = np.concatenate([places, [[START, START]]])
    other_reach = np.append(fixed.scale, AGENT_SCALE) / 2 + GAP
    position = np.zeros((count, objects, 2))
    column, tries = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    waiting = np.arange(count)
    if not count:
        return position
    for _ in range(MOST_DRAWS):
        own = column[waiting]
        radius = scale[waiting, own, None] / 2  # (n 1)
        margin = radius + task.wall
        drawn = margin + (1 - 2 * margin) * streams.uniform(2, waiting)
        between = np.linalg.norm(position[waiting] - drawn[:, None], axis=-1)  # (n M)
        near = between < radius + scale[waiting] / 2 + GAP
        near[np.arange(len(waiting)), own] = False
        far = np.linalg.norm(others - drawn[:, None], axis=-1) >= radius + other_reach
        accepted = ~near.any(axis=1) & far.all(axis=1)
        done = waiting[accepted]
        position[done, column[done]] = drawn[accepted]
        column[done] += 1
        tries[done] = 0
        refused = waiting[~accepted]
        tries[refused] += 1
        stuck = refused[tries[refused] > MOST_TRIES]
        position[stuck], column[stuck], tries[stuck] = 0.0, 0, 0
        waiting = waiting[column[waiting] < objects]
        if not len(waiting):
            return position
    raise ValueError(f"{type(task).__name__}: {objects} objects of this scale find no room; ask for fewer or smaller.")

"""Several tasks as one: every episode is of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rl_probes.envs.streams import Streams
from rl_probes.envs.tasks import Floats, Integers, Sprites, Task


class Mixture(Task):
    """Episodes drawn uniformly from tasks of one class that differ in their colours, shapes or scales.

    What it takes to hold combinations out: an agent that knows blue with green and green with yellow meets blue with
    yellow for the first time.

    Raises:
        ValueError: no tasks, or tasks of several classes or numbers of objects.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        if len({(type(task), task.num_objects) for task in tasks}) != 1:
            raise ValueError(
                "Mixture needs tasks of one class and number of objects, at least one; got "
                f"{[(type(task).__name__, task.num_objects) for task in tasks]}."
            )
        self.tasks = list(tasks)
        self.num_objects, self.wall = tasks[0].num_objects, tasks[0].wall

    @classmethod
    def of_difficulty(cls, name: str) -> NoReturn:
        raise ValueError(f"Mixture has no difficulties; name those of its tasks, got {name!r}.")

    def draw(self, streams: Streams) -> tuple[Sprites, Integers]:
        which = streams.below(len(self.tasks))
        drawn = [task.draw(streams) for task in self.tasks]  # of all, so that a stream's use does not depend on others
        rows = np.arange(len(streams))
        shape, color, scale = (np.stack(values)[which, rows] for values in zip(*(s for s, _ in drawn), strict=True))
        return Sprites(shape, color, scale), np.stack([target for _, target in drawn])[which, rows]

    def move(self, agent: Floats, objects: Floats, scale: Floats, delta: Floats) -> tuple[Floats, Floats]:
        return self.tasks[0].move(agent, objects, scale, delta)

    def judge(self, agent: Floats, objects: Floats, target: Integers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return self.tasks[0].judge(agent, objects, target)

    def distance(self, agent: Floats, objects: Floats, target: Integers) -> Floats:
        return self.tasks[0].distance(agent, objects, target)

    def fixtures(self) -> tuple[Sprites, Floats]:
        return self.tasks[0].fixtures()

    def describe(self) -> dict[str, Any]:
        parts = [task.describe() for task in self.tasks]
        return {"environment": parts[0]["environment"], "num_objects": self.num_objects, "mixture": parts}

"""All tasks together: normalised scores of the representations that have finished every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rl_probes.aggregate import estimate, optimality_gap
from rl_probes.benchmark.grid import HELD_OUT
from rl_probes.benchmark.results import Group, Row, quietly

Bounds = tuple[float, float] | None


def normalised(tasks: Sequence[Mapping[str, Group]], bounds: Sequence[Bounds]) -> dict[str, NDArray[np.float64]]:
    """Representation -> (E A T) scores on the held-out seeds of T tasks, 0 and 1 as `bounds` say; the representations
    that have as many seeds on every task, and none where a task has no bounds."""
    if not tasks or None in bounds:
        return {}
    found = {}
    for name, first in tasks[0].items():
        own = [groups[name] for groups in tasks if name in groups]
        if first.is_chance or len(own) < len(tasks) or len({group.shape for group in own}) > 1:
            continue
        columns = [
            (group.scores(HELD_OUT) - ends[0]) / (ends[1] - ends[0])
            for group, ends in zip(own, bounds, strict=True)
            if ends is not None
        ]
        found[name] = np.stack(columns, axis=2)
    return found


def rows(scores: Mapping[str, NDArray[np.float64]], few: Mapping[str, bool]) -> list[Row]:
    """Interquartile mean and optimality gap with their intervals; few: which have too few seeds for one."""
    lines = []
    for name, values in scores.items():
        line: Row = {"representation": name, "tasks": values.shape[2], "few_seeds": few[name]}
        for measure, found in (("iqm", quietly(estimate, values)), ("gap", quietly(estimate, values, optimality_gap))):
            line |= {measure: found.value, f"{measure}_low": found.low, f"{measure}_high": found.high}
        lines.append(line)
    return lines

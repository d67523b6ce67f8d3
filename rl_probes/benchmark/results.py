"""Finished cells -> scores by encoder seed and agent seed, and rows with all that a reader needs to trust them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_probes.aggregate import (
    Band,
    estimate,
    fewest_seeds,
    learning_curve,
    paired_difference,
    probability_of_improvement,
    steps_to,
)
from rl_probes.benchmark.grid import Cell, Task
from rl_probes.progress import is_settled, read_progress
from rl_probes.statistics import FEWEST_RUNS

Array = NDArray[np.float64]
Row = dict[str, Any]
POINTS = 60
"""Of a learning curve, at most."""


@dataclass(frozen=True)
class Group:
    """The finished agents of one representation on one task, or the episodes of chance there.

    cells: those of the agent seeds that every encoder of it has finished, encoder by encoder.
    missing: how many others there should be.
    """

    task: Task
    name: str
    cells: list[Cell]
    results: list[dict[str, Any]]
    missing: int

    @property
    def shape(self) -> tuple[int, int]:
        """(E, A)"""
        encoders = len({cell.encoder_seed for cell in self.cells})
        return encoders, len(self.cells) // encoders

    @property
    def is_chance(self) -> bool:
        return self.cells[0].is_chance

    @cached_property
    def metric(self) -> str:
        known = all(value is not None for result in self.results for value in _first(result["splits"])["success"])
        return "success" if known and not self.task.by_return else "return"

    def episodes(self, split: str) -> Array:
        """(E A N) success or return of every episode."""
        key = "success" if self.metric == "success" else "returns"
        values = np.array([result["splits"][split][key] for result in self.results], np.float64)
        return values.reshape(*self.shape, -1)

    def scores(self, split: str) -> Array:
        """(E A)"""
        return np.asarray(self.episodes(split).mean(axis=2))

    @cached_property
    def curves(self) -> tuple[Array, Array]:
        """steps (P,) and the training success or return (R P) of the last 100 episodes; NaN before so many ended."""
        logs = [read_progress(cell.folder / "progress.csv") for cell in self.cells]
        points = min(map(len, logs))
        steps = np.array([row["steps"] for row in logs[0][:points]])
        return steps, np.array(
            [[row[self.metric] if is_settled(row) else np.nan for row in log[:points]] for log in logs]
        )

    def curve(self) -> tuple[Array, Band] | None:
        """The learning curve at up to `POINTS` steps where all runs have a figure; None where there are none."""
        steps, curves = self.curves
        chosen = np.flatnonzero(np.isfinite(curves).all(axis=0))
        if not len(chosen):
            return None
        chosen = chosen[np.unique(np.linspace(0, len(chosen) - 1, POINTS).round().astype(int))]
        return steps[chosen], quietly(learning_curve, curves[:, chosen].reshape(*self.shape, -1))

    @property
    def has_few_seeds(self) -> bool:
        return not self.is_chance and fewest_seeds(self.shape) < FEWEST_RUNS


def groups(task: Task, cells: Sequence[Cell]) -> dict[str, Group]:
    """By representation; one without a seed that all its encoders have finished is left out."""
    found = {}
    for name in dict.fromkeys(cell.representation for cell in cells if cell.task == task.name):
        own = [cell for cell in cells if (cell.task, cell.representation) == (task.name, name)]
        results = {cell: cell.result() for cell in own}
        unfinished = {cell.agent_seed for cell, result in results.items() if result is None}
        complete = [cell for cell in own if cell.agent_seed not in unfinished]
        complete.sort(key=lambda cell: (cell.encoder_seed, cell.agent_seed))
        if complete:
            kept = [result for cell in complete if (result := results[cell]) is not None]
            found[name] = Group(task, name, complete, kept, len(own) - len(complete))
    return found


def score_range(task: Task, split: str, chance: Group | None, ceiling: Group | None) -> tuple[float, float] | None:
    """The scores that count as 0 and 1: the task's own, else those of chance and of the ceiling."""
    if task.score_range is not None:
        return task.score_range
    if chance is None or ceiling is None or chance.metric != ceiling.metric:
        return None
    low, high = float(chance.scores(split).mean()), quietly(estimate, ceiling.scores(split)).value
    return (low, high) if high > low else None


def row(group: Group, split: str, bounds: tuple[float, float] | None) -> Row:
    """One line of the table. Steps to 50 % and 80 %: of success, or of the normalised return; infinite if never."""
    scores, first = group.scores(split), group.results[0]
    asked = group.cells[0].evaluation
    found = quietly(estimate, scores)
    build = dict(asked["splits"][split]["build"])
    build.pop("environment", None)
    mode = "most likely" if asked["most_likely"] and not group.is_chance else "sampled"
    line: Row = {
        "task": group.task.name,
        "split": split,
        "representation": group.name,
        "encoder": " ".join(dict.fromkeys(result.get("encoder", "")[:8] for result in group.results)),
        "tokens": first["tokens"][0] if "tokens" in first else None,
        "dim": first["tokens"][1] if "tokens" in first else None,
        "pooling": None if group.is_chance else group.cells[0].run["pooling"]["class_path"].rsplit(".", 1)[-1],
        "steps": None if group.is_chance else int(first["steps"]),
        "encoder_seeds": None if group.is_chance else group.shape[0],
        "agent_seeds": None if group.is_chance else group.shape[1],
        "missing_cells": group.missing,
        "metric": group.metric,
        "iqm": found.value,
        "low": None if group.is_chance else found.low,
        "high": None if group.is_chance else found.high,
        "few_seeds": group.has_few_seeds,
        "mean": float(scores.mean()),
        "std": float(scores.std(ddof=1)) if scores.size > 1 else None,
        "normalised": None,
        "zero_is": None,
        "one_is": None,
        "steps_to_50": None,
        "steps_to_80": None,
        "steps_per_second": None,
        "hours": None,
        "episodes": asked["episodes"],
        "first_seed": asked["first_seed"],
        "actions": mode,
        "build": ", ".join(f"{name} {_text(value)}" for name, value in build.items()),
    }
    if bounds is not None:
        low, high = bounds
        line |= {"normalised": (found.value - low) / (high - low), "zero_is": low, "one_is": high}
    if not group.is_chance:
        seconds = [result["seconds"] for result in group.results]
        speeds = [result["steps"] / result["seconds"] for result in group.results]
        line |= {"steps_per_second": float(np.mean(speeds)), "hours": sum(seconds) / 3600}
        levels = (0.0, 1.0) if group.metric == "success" else bounds
        for percent in (50, 80):
            if levels is not None:
                level = levels[0] + percent / 100 * (levels[1] - levels[0])
                line[f"steps_to_{percent}"] = steps_to(*group.curves, level)
    return line


def comparisons(found: dict[str, Group], split: str) -> list[Row]:
    """Every pair of representations on one task: the paired difference and the probability of improvement."""
    lines = []
    for first, second in combinations([group for group in found.values() if not group.is_chance], 2):
        difference = quietly(paired_difference, first.episodes(split), second.episodes(split))
        better = quietly(probability_of_improvement, first.scores(split), second.scores(split))
        lines.append(
            {
                "task": first.task.name,
                "split": split,
                "first": first.name,
                "second": second.name,
                **{f"difference{end}": value for end, value in zip(("", "_low", "_high"), difference, strict=True)},
                **{f"improvement{end}": value for end, value in zip(("", "_low", "_high"), better, strict=True)},
                "few_seeds": first.has_few_seeds or second.has_few_seeds,
            }
        )
    return lines


def quietly(function: Any, *arguments: Any) -> Any:
    """Without the warning about few seeds, which the report gives once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return function(*arguments)


def plain(value: Any) -> Any:
    """For JSON and CSV: an infinite number of steps is "never"."""
    return "never" if isinstance(value, float) and math.isinf(value) else value


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _first(mapping: dict[str, Any]) -> Any:
    return next(iter(mapping.values()))

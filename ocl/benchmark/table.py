"""Rows of single runs -> one table: mean, spread, worst seed and failure rate of every arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from ocl.metrics.protocols import Protocol

Row = dict[str, Any]
"""name, set, seed, measure, value (None where undefined), protocol, step, minutes (None for a run that was resumed)."""


@dataclass(frozen=True)
class Summary:
    """One measure of one arm over its seeds. std is that of a sample (n - 1) and NaN for one seed."""

    mean: float
    std: float
    low: float
    seeds: int


def summarise(values: Sequence[float | None]) -> Summary:
    """Seeds where the measure is undefined make mean and least value NaN: no seed is left out in silence."""
    known = [math.nan if value is None else float(value) for value in values]
    if not known or any(map(math.isnan, known)):
        return Summary(math.nan, math.nan, math.nan, len(known))
    spread = statistics.stdev(known) if len(known) > 1 else math.nan
    return Summary(statistics.fmean(known), spread, min(known), len(known))


def failed(measures: Mapping[str, float | None], thresholds: Mapping[str, float]) -> bool:
    """Whether a run lies below any threshold; an undefined measure does."""
    found = {name: measures.get(name) for name in thresholds}
    return any(value is None or not value >= thresholds[name] for name, value in found.items())


def failures(rows: Sequence[Row], thresholds: Mapping[str, float]) -> dict[tuple[str, str, int], bool]:
    """(name, set, seed) -> whether that run failed."""
    runs: dict[tuple[str, str, int], dict[str, float | None]] = {}
    for row in rows:
        runs.setdefault((row["name"], row["set"], row["seed"]), {})[row["measure"]] = row["value"]
    return {run: failed(measures, thresholds) for run, measures in runs.items()}


def rule(thresholds: Mapping[str, float]) -> str:
    """The failure rule in words."""
    below = " or ".join(f"{name} < {value:g}" for name, value in thresholds.items())
    return f"a seed fails where {below}" if below else "no failure threshold is set"


def table(rows: Sequence[Row], thresholds: Mapping[str, float], measures: Sequence[str], protocol: Protocol) -> Table:
    """Arms down, measures across: mean ± standard deviation over seeds, the least value, and how many seeds failed."""
    caption = f"mean ± standard deviation over seeds (n - 1), below it the least seed; {rule(thresholds)}."
    title = f"Object discovery, protocol {protocol.name}"
    drawn = Table(title=title, caption=f"{caption} {protocol.counts}", box=box.SIMPLE_HEAD, caption_justify="left")
    drawn.add_column("set", no_wrap=True)
    drawn.add_column("method", no_wrap=True)
    for column in ("seeds", *(measure.replace("_", " ") for measure in measures), "failed", "minutes"):
        drawn.add_column(column, justify="right")
    fails = failures(rows, thresholds)
    arms = dict.fromkeys((row["set"], row["name"]) for row in rows)
    for place, name in sorted(arms, key=lambda arm: [row["set"] for row in rows].index(arm[0])):
        arm = [row for row in rows if (row["set"], row["name"]) == (place, name)]
        seeds = {row["seed"]: row for row in arm}
        lost = [fails[name, place, seed] for seed in seeds]
        minutes = [row["minutes"] for row in seeds.values() if row["minutes"] is not None]
        drawn.add_row(
            place,
            name,
            str(len(seeds)),
            *(_cell(summarise([row["value"] for row in arm if row["measure"] == measure])) for measure in measures),
            f"{sum(lost)}/{len(lost)}",
            f"{statistics.fmean(minutes):.1f}" if minutes else "-",
        )
    return drawn


def _cell(summary: Summary) -> str:
    if math.isnan(summary.mean):
        return "undefined"
    spread = "" if math.isnan(summary.std) else f" ± {summary.std:.3f}"
    return f"{summary.mean:.3f}{spread}\nmin {summary.low:.3f}"

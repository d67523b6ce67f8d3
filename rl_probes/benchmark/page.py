"""The report of a benchmark: one HTML file with tables, curves, profiles and an episode of every representation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocl.charts import Line, line_chart
from ocl.manifest import commit, versions
from ocl.report import Report, Table, figure, picture
from rl_probes.aggregate import fewest_seeds, performance_profile
from rl_probes.benchmark.grid import ANIMATION, HELD_OUT
from rl_probes.benchmark.results import Group, quietly
from rl_probes.statistics import FEWEST_RUNS

THRESHOLDS = np.linspace(0.0, 1.2, 61)


def write_page(
    path: Path,
    tasks: Sequence[Mapping[str, Group]],
    tables: Mapping[str, Sequence[Table]],
    overall: Table | None,
    normalised: Mapping[str, NDArray[np.float64]],
    ceiling: str | None,
) -> Path:
    """tasks: the groups of each; tables: by task; normalised: (E A T) by representation, empty where not known."""
    report = Report("Which representation makes a better agent?")
    report.paragraph(
        "PPO on frozen representations. Every agent of a task played the same episodes, with its last policy. "
        "Chance is a random policy on those episodes."
    )
    for groups in tasks:
        name = next(iter(groups.values())).task.name
        report.section(name)
        for table in tables[name]:
            report.paragraph(table.title)
            report.table(table)
        _curves(report, groups, ceiling)
        _episodes(report, groups)
    if overall is not None:
        report.section("Normalised scores")
        report.table(overall)
        _profiles(report, normalised)
    report.section("How this was made")
    facts = versions() | {"commit": commit() or "unknown"}
    report.paragraph("; ".join(f"{name} {value}" for name, value in facts.items()) + ".")
    report.paragraph(
        "Each cell's folder holds its manifest, the config that `rl-probes ppo` and `rl-probes evaluate` read, its "
        "training curve, agent and episodes."
    )
    return report.save(path)


def _curves(report: Report, groups: Mapping[str, Group], ceiling: str | None) -> None:
    lines = []
    for group in groups.values():
        if group.is_chance or (found := group.curve()) is None:
            continue
        steps, band = found
        shown = (band.low.tolist(), band.high.tolist()) if not group.has_few_seeds else ((), ())
        lines.append(Line(group.name, steps.tolist(), band.value.tolist(), low=shown[0], high=shown[1]))
    if not lines:
        return
    last = max(line.x[-1] for line in lines)
    for group in groups.values():
        if group.is_chance or group.name == ceiling:
            level = float(group.scores(HELD_OUT).mean())
            what = "chance" if group.is_chance else f"{group.name}, at the end"
            lines.append(Line(what, [0, last], [level, level], dashed=True))
    metric = next(iter(groups.values())).metric
    limits = (0.0, 1.0) if metric == "success" else None
    caption = (
        f"Training: {metric} of the last 100 episodes, IQM over runs; bands are 95 % intervals of three seeds and up."
    )
    report.figures(figure(line_chart(lines, "environment steps", metric, limits), caption))


def _episodes(report: Report, groups: Mapping[str, Group]) -> None:
    shown = []
    for group in groups.values():
        path = group.cells[0].folder / ANIMATION
        if path.is_file():
            caption = f"{group.name}: {group.cells[0].title}, the first evaluation episode; slots beside it, if any."
            shown.append(figure(picture(path.read_bytes(), caption, width=240), group.name))
    if shown:
        report.paragraph("The first evaluation episode, by the first agent; beside it which slot wins each pixel.")
        report.figures(*shown)


def _profiles(report: Report, normalised: Mapping[str, NDArray[np.float64]]) -> None:
    lines = []
    for name, scores in normalised.items():
        band = quietly(performance_profile, scores, THRESHOLDS)
        few = fewest_seeds(scores.shape) < FEWEST_RUNS
        ends = ((), ()) if few else (band.low.tolist(), band.high.tolist())
        lines.append(Line(name, THRESHOLDS.tolist(), band.value.tolist(), low=ends[0], high=ends[1]))
    caption = "Performance profiles: the share of runs, over all tasks, that score more; bands are 95 % intervals."
    report.figures(figure(line_chart(lines, "normalised score", "share of runs", (0.0, 1.0)), caption))

"""Rows -> tables for the terminal, the page and a paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ocl.report import Cell, Table
from rl_probes.benchmark.results import Row
from rl_probes.statistics import FEWEST_RUNS

ABSENT = "–"
MARK = " (!)"
FEW = f"{MARK.strip()} fewer than {FEWEST_RUNS} seeds: the interval is decoration."


def task_table(rows: Sequence[Row]) -> Table:
    """All representations on one split of one task, chance among them."""
    first = rows[0]
    columns = ["representation", "encoder", "tokens", "pooling", "steps", "seeds", f"{first['metric']}, IQM"]
    columns += ["mean ± sd", "normalised", "to 50 %", "to 80 %", "steps/s", "hours"]
    lines: list[list[Cell]] = [
        [
            row["representation"],
            row["encoder"] or ABSENT,
            ABSENT if row["tokens"] is None else f"{row['tokens']}\u00a0×\u00a0{row['dim']}",
            row["pooling"] or ABSENT,
            _number(row["steps"], ",.0f"),
            ABSENT if row["encoder_seeds"] is None else f"{row['encoder_seeds']}\u00a0×\u00a0{row['agent_seeds']}",
            _interval(row["iqm"], row["low"], row["high"], row["few_seeds"]),
            f"{row['mean']:.3f}" if row["std"] is None else (f"{row['mean']:.3f}", f"± {row['std']:.3f}"),
            _number(row["normalised"], "z.2f"),
            _number(row["steps_to_50"], ",.0f"),
            _number(row["steps_to_80"], ",.0f"),
            _number(row["steps_per_second"], ",.0f"),
            _number(row["hours"], ".2f"),
        ]
        for row in rows
    ]
    # Chance samples its actions in either mode, so the mode is that of an agent.
    mode = next((row["actions"] for row in rows if row["steps"] is not None), first["actions"])
    last = first["first_seed"] + first["episodes"] - 1
    caption = (
        f"{first['episodes']} episodes per agent, seeds {first['first_seed']} to {last}, {mode} actions; encoders "
        "are frozen; last policy, not the best. Seeds: encoders × agents on each; small: 95 % intervals from a "
        "bootstrap over both. To 50 %, to 80 %: training steps until that share of "
        f"{'episodes succeeds' if first['metric'] == 'success' else 'the normalised return'}, median. "
    )
    if first["zero_is"] is not None:
        caption += f"Normalised: {first['zero_is']:.3g} → 0, {first['one_is']:.3g} → 1. "
    else:
        caption += "Not normalised: no score_range, and no ceiling above chance. "
    caption += f"Environment: {first['build']}."
    missing = sum(row["missing_cells"] for row in rows)
    caption += f" {missing} cells with seeds that are not finished are left out." if missing else ""
    caption += f" {FEW}" if any(row["few_seeds"] for row in rows) else ""
    return Table(f"{first['task']}: {first['metric']} on {first['split']}", columns, lines, caption)


def comparison_table(rows: Sequence[Row]) -> Table:
    """Pairs on one split of one task."""
    lines: list[list[Cell]] = [
        [
            f"{row['first']} − {row['second']}",
            _interval(row["difference"], row["difference_low"], row["difference_high"], row["few_seeds"]),
            _interval(row["improvement"], row["improvement_low"], row["improvement_high"], row["few_seeds"]),
        ]
        for row in rows
    ]
    caption = (
        "Difference: of mean scores on the same episodes, which are drawn for both together. Improvement: how likely a "
        "run of the first beats one of the second, ties half."
    )
    caption += f" {FEW}" if any(row["few_seeds"] for row in rows) else ""
    title = f"{rows[0]['task']}: pairs on {rows[0]['split']}"
    return Table(title, ["pair", "difference", "probability of improvement"], lines, caption)


def overall_table(rows: Sequence[Row]) -> Table:
    lines: list[list[Cell]] = [
        [
            row["representation"],
            _interval(row["iqm"], row["iqm_low"], row["iqm_high"], row["few_seeds"]),
            _interval(row["gap"], row["gap_low"], row["gap_high"], row["few_seeds"]),
        ]
        for row in rows
    ]
    caption = (
        "Normalised scores over runs and tasks, held-out seeds; the ends of the scale are taken as known. Optimality "
        "gap: mean of what is missing to 1."
    )
    caption += f" {FEW}" if any(row["few_seeds"] for row in rows) else ""
    tasks = rows[0]["tasks"]
    return Table(
        f"All tasks ({tasks})" if tasks > 1 else "Normalised",
        ["representation", "IQM", "optimality gap ↓"],
        lines,
        caption,
    )


def _interval(value: float, low: float | None, high: float | None, few: bool) -> Cell:
    if low is None or high is None:
        return f"{value:.3f}"
    return f"{value:z.3f}", f"{low:z.3f}..{high:z.3f}" + (MARK if few else "")


def _number(value: float | None, form: str) -> str:
    if value is None:
        return ABSENT
    return format(value, form) if np.isfinite(value) else "never"

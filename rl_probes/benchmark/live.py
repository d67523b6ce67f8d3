"""What a benchmark shows while it runs: one line per representation and task."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from rl_probes.benchmark.grid import Cell
from rl_probes.progress import read_progress


def live_table(
    cells: Sequence[Cell],
    finished: Mapping[Cell, dict[str, Any]],
    running: Collection[Cell],
    errors: Mapping[Cell, str],
) -> Table:
    """Counts of cells, and of those that run: the steps and the success (or return) of the newest training rows."""
    shown = Table(box=box.SIMPLE_HEAD, title="agents", title_justify="left")
    for column in ("task", "representation"):
        shown.add_column(column, no_wrap=True)
    for column in ("done", "running", "failed", "steps", "training", "score"):
        shown.add_column(column, justify="right")
    for task, name in dict.fromkeys((cell.task, cell.representation) for cell in cells):
        own = [cell for cell in cells if (cell.task, cell.representation) == (task, name)]
        results = [finished[cell] for cell in own if cell in finished]
        newest = [rows[-1] for cell in own if cell in running and (rows := read_progress(cell.folder / "progress.csv"))]
        scores = [_score(next(iter(result["splits"].values()))) for result in results]
        shown.add_row(
            task,
            name,
            f"{len(results)}/{len(own)}",
            str(sum(cell in running for cell in own) or ""),
            str(sum(cell in errors for cell in own) or ""),
            " ".join(f"{row['steps']:,.0f}" for row in newest),
            " ".join(f"{row['return'] if np.isnan(row['success']) else row['success']:.2f}" for row in newest),
            f"{np.mean(scores):.3f}" if scores else "",
        )
    return shown


def _score(split: dict[str, list[float | None]]) -> float:
    values = split["returns"] if None in split["success"] else split["success"]
    return float(np.mean(np.array(values, np.float64)))

"""Rows of all seeds -> one table: sources of masks and foreground scores down, accuracies across."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich import box
from rich.table import Table

from ocl.occam.rows import Row

CAPTION = (
    "Accuracy over all test images and of the worst group: mean ± standard deviation over seeds (n - 1), below it the "
    "outermost ends of the seeds' 95 % bootstrap intervals over images. Gap: accuracy - worst group. Any correct: some "
    "segment is classified right, the ceiling of every selection of one. A score marked \\[class] reads the true "
    "class, one marked \\[place] the true box. Chance: class-aided selection on random logits, for the observed "
    "segments per image and classes."
)
MEASURES = ("segments", "accuracy", "worst group", "gap", "any correct", "chance", "above chance")
WITH_INTERVAL = ("accuracy", "worst group")
COUNTS = ("segments",)


def table(rows: Sequence[Row], title: str = "Classification by segments") -> Table:
    """One line per source, score and selection."""
    seeds = len({row["seed"] for row in rows})
    images = max(row["images"] for row in rows)
    drawn = Table(
        title=f"{title}: {images} images, {seeds} seed{'s' if seeds > 1 else ''}",
        caption=CAPTION,
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    for column in ("masks", "foreground score", "selection"):
        drawn.add_column(column)
    for column in MEASURES:
        drawn.add_column(column, justify="right")
    lines = dict.fromkeys((row["source"], row["score"], row["selection"], row["oracle"]) for row in rows)
    previous = None
    for source, score, selection, oracle in lines:
        mine = [row for row in rows if (row["source"], row["score"], row["selection"]) == (source, score, selection)]
        cells = (_cell(measure, [row for row in mine if row["measure"] == measure]) for measure in MEASURES)
        named = f"{score} \\[{oracle}]" if oracle else score
        drawn.add_row("" if source == previous else source, named, selection, *cells)
        previous = source
    return drawn


def _cell(measure: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    values = [row["value"] for row in rows]
    digits = 1 if measure in COUNTS else 3
    text = f"{statistics.fmean(values):.{digits}f}"
    if measure in COUNTS:
        return text
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.3f}"
    if measure in WITH_INTERVAL:
        text += f"\n\\[{min(row['low'] for row in rows):.3f}, {max(row['high'] for row in rows):.3f}]"
    return text

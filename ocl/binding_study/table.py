"""Rows -> one table: controls first, then every model and probe at the layer that held-out training images choose."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table

from ocl.binding_study.rows import Row, lines_of

CAPTION = (
    "Means over test images with 95 % bootstrap intervals over images; each pair of patches counts once. Hard: "
    "different pairs are of two objects of one class. Matched: same and different pairs at about the same distance. "
    "The layer is the one with the least loss on held-out training images; results.json holds all layers and measures, "
    "curves.png draws them."
)
COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "auc": "AUC",
    "average_precision": "AP",
    "hard_auc": "hard AUC",
    "distance_matched_auc": "matched AUC",
}


def table(rows: Sequence[Row], title: str = "IsSameObject") -> Table:
    """One line per control, and per model and probe."""
    present = [name for name in COLUMNS if any(row["measure"] == name for row in rows)]
    images = max(row["images"] + row["dropped"] for row in rows)
    drawn = Table(title=f"{title}: {images} images", caption=CAPTION, caption_justify="left", box=box.SIMPLE_HEAD)
    for column in ("model", "probe", "layer"):
        drawn.add_column(column)
    for name in present:
        drawn.add_column(COLUMNS[name], justify="right")
    previous = None
    for (model, probe), mine in lines_of(rows).items():
        chosen = {row["measure"]: row for row in mine if row["chosen"]}
        place = next(iter(chosen.values()))["place"]
        if previous not in (None, model):
            drawn.add_section()
        drawn.add_row("" if model == previous else model, probe, place, *(_cell(chosen.get(name)) for name in present))
        previous = model
    return drawn


def _cell(row: Row | None) -> str:
    if row is None or math.isnan(row["value"]):
        return "-"
    low, high = (f"{row[end]:.3f}".removeprefix("0") for end in ("low", "high"))
    return f"{row['value']:.3f} \\[{low}, {high}]"

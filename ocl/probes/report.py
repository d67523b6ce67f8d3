"""The result of a property probe: rows to print, to store and to look up."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from ocl.files import write_json


@dataclass(frozen=True)
class ProbeRow:
    """One number and its two yardsticks.

    measure:  "r2", "accuracy" or "balanced_accuracy".
    value:    on the test images.
    shuffled: the same probe given the slots of another test image: what pairing with the truth alone earns. Vectors
              that say nothing about the image score the same here as in `value`.
    chance:   the best answer that sees no slots: training mean or majority class.
    """

    property: str
    probe: str
    measure: str
    value: float
    shuffled: float
    chance: float


@dataclass(frozen=True)
class ProbeReport:
    """rows, and what they were measured on.

    pairing: "likelihood", "optimal assignment" or "masks". objects: visible objects in the test images.
    """

    rows: list[ProbeRow]
    pairing: str
    train_images: int
    test_images: int
    objects: int

    def value(self, property: str, probe: str, measure: str) -> float:
        for row in self.rows:
            if (row.property, row.probe, row.measure) == (property, probe, measure):
                return row.value
        raise ValueError(f"There is no row for {property}, {probe}, {measure}.")

    def as_dict(self) -> dict[str, Any]:
        """JSON values; None where a number is undefined."""
        rows = [{name: None if value != value else value for name, value in asdict(row).items()} for row in self.rows]
        return {**asdict(self), "rows": rows}

    def save(self, path: str | Path) -> Path:
        return write_json(path, self.as_dict())

    def table(self, title: str = "Properties read from slots") -> Table:
        caption = f"{self.objects} objects in {self.test_images} test images, paired by {self.pairing}"
        table = Table(title=title, caption=caption)
        for name in ("property", "measure", "probe", "value", "shuffled", "chance"):
            table.add_column(name, justify="right" if name in ("value", "shuffled", "chance") else "left")
        for row in self.rows:
            table.add_row(row.property, row.measure, row.probe, *map(_number, (row.value, row.shuffled, row.chance)))
        return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"

"""Measures over the layers of every model as one PNG, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ocl.binding_study.rows import ALL_DIFFERENT, BOTH, CLASS_ORACLE, HUMAN, ONLY, Row, lines_of
from ocl.charts import ticks
from ocl.files import write_atomically

MEASURES = {"accuracy": "accuracy", "auc": "AUC", "hard_auc": "hard AUC", "distance_matched_auc": "matched AUC"}
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SHOWN = (ALL_DIFFERENT, BOTH, CLASS_ORACLE, HUMAN)
"""Controls that are drawn."""
GREY, DARK, PALE = "#8a8f98", "#24292f", "#e3e6ea"
WIDTH, HEIGHT = 400, 250  # of the field of a panel, pixels
LEFT, RIGHT, TOP, BOTTOM, LEGEND = 52, 124, 30, 40, 24
SCALE = 2  # drawn larger and reduced, for smooth lines


def draw_curves(rows: Sequence[Row], path: Path) -> Path:
    """One row of panels per model, one column per measure: a line per probe, dashes for controls without a model."""
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != ONLY))
    measures = [name for name in MEASURES if any(row["measure"] == name for row in rows)]
    probes = list(dict.fromkeys(row["probe"] for row in rows if row["model"] != ONLY))
    colors = {probe: COLORS[number] if number < len(COLORS) else GREY for number, probe in enumerate(probes)}
    across, down = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    size = (len(measures) * across, len(models) * down + LEGEND)
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    for column, measure in enumerate(measures):
        here = [row for row in rows if row["measure"] == measure]
        controls = {row["probe"]: row["value"] for row in here if row["model"] == ONLY}
        ends = [row[end] for row in here for end in ("low", "high") if math.isfinite(row[end])]
        scale = ticks(min(ends), max(ends)) if ends else ticks(0, 1)
        for line, model in enumerate(models):
            mine = lines_of([row for row in here if row["model"] == model])
            places = [row["place"] for row in next(iter(mine.values()))]
            panel = _Panel(picture, column * across + LEFT, line * down + TOP, scale, len(places))
            panel.frame(f"{model}: {MEASURES[measure]}", places)
            for (_, probe), found in mine.items():
                panel.curve([(places.index(row["place"]), row) for row in found], colors[probe])
            panel.references({name: controls[name] for name in SHOWN if name in controls})
    _legend(picture, colors, size[1] - LEGEND)
    reduced = picture.resize(size, Image.Resampling.LANCZOS)
    return write_atomically(path, lambda temporary: reduced.save(temporary, "PNG"))


class _Panel:
    """A field of WIDTH x HEIGHT with its corner at (left, top)."""

    def __init__(self, picture: Image.Image, left: int, top: int, scale: Sequence[float], places: int) -> None:
        self.pen, self.left, self.top = ImageDraw.Draw(picture, "RGBA"), left, top
        self.scale, self.places = scale, places

    def at(self, place: float, value: float) -> tuple[float, float]:
        share = (place + 0.5) / self.places if self.places == 1 else place / (self.places - 1)
        up = (value - self.scale[0]) / (self.scale[-1] - self.scale[0])
        return (self.left + share * WIDTH) * SCALE, (self.top + (1 - min(max(up, 0), 1)) * HEIGHT) * SCALE

    def frame(self, title: str, places: Sequence[str]) -> None:
        first, last = self.left * SCALE, (self.left + WIDTH) * SCALE
        for value in self.scale:
            height = self.at(0, value)[1]
            self.pen.line((first, height, last, height), PALE, SCALE)
            self.text(first - 6 * SCALE, height, f"{value:g}", "rm")
        for place in range(0, len(places), math.ceil(len(places) / 12)):
            x = self.at(place, self.scale[0])[0]
            self.text(x, (self.top + HEIGHT + 10) * SCALE, places[place].removeprefix("block "), "mm")
        self.text((first + last) / 2, (self.top + HEIGHT + 26) * SCALE, "layer", "mm")
        self.text(first, (self.top - 12) * SCALE, title, "lm", 13)

    def curve(self, rows: Sequence[tuple[int, Row]], color: str) -> None:
        """Places, rising, with their rows; a single one gets a dot with its interval."""
        found = [(place, row) for place, row in rows if math.isfinite(row["value"])]
        middle, upper, lower = ([self.at(at, row[of]) for at, row in found] for of in ("value", "high", "low"))
        if len(found) > 1:
            self.pen.polygon([*upper, *reversed(lower)], fill=f"{color}30")
            self.pen.line(middle, color, 2 * SCALE, joint="curve")
        for (x, y), (_, high), (_, low) in zip(middle, upper, lower, strict=True):
            if len(found) == 1:
                self.pen.line((x, low, x, high), color, SCALE)
            self.pen.ellipse((x - 2 * SCALE, y - 2 * SCALE, x + 2 * SCALE, y + 2 * SCALE), color)

    def references(self, values: dict[str, float]) -> None:
        """Dashed lines with their names at the right, kept apart."""
        lowest = math.inf
        for name, value in sorted(values.items(), key=lambda item: item[1]):
            if not math.isfinite(value):
                continue
            x, y = self.at(self.places - 1, value)
            x = (self.left + WIDTH) * SCALE
            for start in range(self.left * SCALE, int(x), 10 * SCALE):
                self.pen.line((start, y, min(start + 5 * SCALE, x), y), DARK, SCALE)
            lowest = min(y, lowest - 13 * SCALE)
            self.text(x + 4 * SCALE, lowest, name, "lm")

    def text(self, x: float, y: float, text: str, anchor: str, size: int = 11) -> None:
        self.pen.text((x, y), text, DARK, ImageFont.load_default(size * SCALE), anchor)


def _legend(picture: Image.Image, colors: dict[str, str], top: int) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11 * SCALE)
    x, y = float(LEFT * SCALE), (top + LEGEND / 2) * SCALE
    for name, color in colors.items():
        pen.line((x, y, x + 18 * SCALE, y), color, 2 * SCALE)
        pen.text((x + 23 * SCALE, y), name, DARK, font, "lm")
        x += 38 * SCALE + font.getlength(name)

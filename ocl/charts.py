"""Line charts as SVG text that takes its colours from the page around it (`ocl.report`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
COLORS = 5
REFERENCE = 5
"""The page's colour of dashed lines."""
LINE_HEIGHT = 18


@dataclass(frozen=True)
class Line:
    """A curve through the points (x, y); points that are not finite are left out. A dashed line is a reference.

    low, high: the ends of an interval at every x, drawn as a band; finite, or empty where there is none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    dashed: bool = False
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, y_range: tuple[float, float] | None = None) -> str:
    """One chart with a legend under it, its x axis from zero or the lowest x. Lines take the page's colours in turn.

    Raises:
        ValueError: no line, a line whose x and y differ in length, or no finite point at all.
    """
    if not lines or any(len(line.x) != len(line.y) for line in lines):
        raise ValueError("a chart needs lines with as many x as y.")
    if any(len(line.low) != len(line.high) or len(line.low) not in (0, len(line.x)) for line in lines):
        raise ValueError("a band needs as many low and high as its line has x.")
    points = [
        [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)] for line in lines
    ]
    everything = [point for line in points for point in line]
    if not everything:
        raise ValueError("a chart needs at least one finite point.")
    ends = [*(y for _, y in everything), *(y for line in lines for y in (*line.low, *line.high))]
    xs = ticks(min(0.0, *(x for x, _ in everything)), max(x for x, _ in everything))
    ys = ticks(*(y_range or (min(ends), max(ends))))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / (xs[-1] - xs[0])
        up = (y - ys[0]) / (ys[-1] - ys[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ys:
        height = place(xs[0], y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {height:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs:
        parts.append(
            f'<text x="{place(x, ys[0])[0]:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    upright = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {upright})"'
    parts.append(f'<text x="12" y="{upright}" text-anchor="middle" {turned}>{escape(y_label)}</text>')
    for number, (line, drawn) in enumerate(zip(lines, points, strict=True)):
        color = REFERENCE if line.dashed else number % COLORS
        style = f'style="stroke:var(--line-{color})"' + (' stroke-dasharray="5 4"' if line.dashed else "")
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in drawn)
        around = [*zip(line.x, line.low), *reversed([*zip(line.x, line.high)])]  # noqa: B905 (checked, or empty)
        if around:
            edge = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in around)
            parts.append(f'<path style="fill:var(--line-{color});fill-opacity:.15" d="M{edge}z"/>')
        dot = "z" if len(drawn) == 1 else ""  # a path of one point is only drawn where it is closed
        if path:
            parts.append(f'<path class="line" {style} d="M{path}{dot}"/>')
        below = HEIGHT + LINE_HEIGHT * (number + 0.5)
        parts.append(f'<path class="line" {style} d="M{LEFT} {below}h24"/>')
        parts.append(f'<text x="{LEFT + 32}" y="{below + 4}">{escape(line.name)}</text>')
    height = HEIGHT + LINE_HEIGHT * len(lines)
    label = escape(f"{y_label} over {x_label}")
    return f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {height}">{"".join(parts)}</svg>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers, equally far apart, that enclose [low, high]; at least two."""
    if low == high:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]

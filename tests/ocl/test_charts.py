"""Charts are well-formed, put points where they belong, and need no other file."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocl.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, line_chart, ticks


def curves(svg: str) -> list[np.ndarray]:
    """(n 2) screen points of every line that is not in the legend."""
    paths = [path.get("d") for path in ElementTree.fromstring(svg).iter("path") if path.get("class") == "line"]
    return [
        np.array([point.split() for point in path[1:].rstrip("z").split("L")], float)
        for path in paths
        if "h" not in path
    ]


def test_points_land_on_a_linear_scale():
    x, y = [0.0, 10.0, 35.0, 50.0], [0.0, 0.25, 0.5, 1.0]
    (found,) = curves(line_chart([Line("a & b", x, y)], "x < y", "share", (0.0, 1.0)))
    across = LEFT + np.array(x) / 50 * (WIDTH - LEFT - RIGHT)
    down = HEIGHT - BOTTOM - np.array(y) * (HEIGHT - TOP - BOTTOM)
    np.testing.assert_allclose(found, np.stack([across, down], 1), atol=0.05)


def test_what_is_not_finite_is_left_out_and_names_are_escaped():
    lines = [
        Line("<one>", [3, 4, 5], [math.nan, 1, 2]),
        Line("never", [0], [math.nan]),
        Line("ref", [5], [1], True),
    ]
    svg = line_chart(lines, "x", "y")
    assert [len(curve) for curve in curves(svg)] == [2, 1]
    assert curves(svg)[0][0, 0] > LEFT  # the axis starts at zero
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert {"<one>", "never", "ref"} <= set(texts)
    assert svg.count("stroke-dasharray") == 2  # the line and its sample in the legend
    assert "nan" not in svg.replace("never", "")
    assert "http" not in svg
    with pytest.raises(ValueError, match="finite"):
        line_chart([Line("never", [0], [math.nan])], "x", "y")
    with pytest.raises(ValueError, match="as many x as y"):
        line_chart([Line("a", [0, 1], [0])], "x", "y")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_enclose_and_are_round(low, width):
    found = ticks(low, low + width)
    step = found[1] - found[0]
    slack = 1e-6 * step
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    assert 2 <= len(found) <= 8
    assert math.isclose(
        step / 10 ** math.floor(math.log10(step) + 1e-6),
        round(step / 10 ** math.floor(math.log10(step) + 1e-6)),
        rel_tol=1e-3,
    )


def test_a_constant_has_room_around_it():
    assert ticks(3.0, 3.0)[0] < 3 < ticks(3.0, 3.0)[-1]


def test_a_band_encloses_its_line():
    x, y, low, high = [0.0, 10.0, 50.0], [0.2, 0.5, 0.6], [0.1, 0.5, 0.4], [0.4, 0.8, 1.0]
    chart = line_chart([Line("a", x, y, low=low, high=high)], "x", "y")
    (path,) = [path.get("d") for path in ElementTree.fromstring(chart).iter("path") if "fill" in path.get("style", "")]
    corners = np.array([point.split() for point in path[1:].rstrip("z").split("L")], float)
    (line,) = curves(chart)
    assert ticks(0.1, 1.0)[0] <= 0.1, "the axis holds the band"
    np.testing.assert_allclose(corners[:, 0], [*line[:, 0], *line[::-1, 0]])
    up = ((HEIGHT - BOTTOM) - corners[:, 1]) / (HEIGHT - TOP - BOTTOM)
    span = ticks(0.1, 1.0)[-1] - ticks(0.1, 1.0)[0]
    np.testing.assert_allclose(up * span + ticks(0.1, 1.0)[0], [*low, *high[::-1]], atol=1e-3)
    assert "fill-opacity" not in line_chart([Line("a", x, y)], "x", "y")
    with pytest.raises(ValueError, match="as many low and high"):
        line_chart([Line("a", x, y, low=low, high=high[:2])], "x", "y")

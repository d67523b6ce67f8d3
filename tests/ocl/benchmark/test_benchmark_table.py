"""Mean, spread, least seed and failure rate from rows that were made up, against the same figures by hand."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ocl.benchmark.contact_sheet import CAPTION, GAP, WIDTH, contact_sheet
from ocl.benchmark.table import failed, failures, rule, summarise, table
from ocl.metrics.protocols import GENERA1Z


def row(name: str, seed: int, measure: str, value: float | None, minutes: float | None = 2.0) -> dict[str, Any]:
    about = {"protocol": "genera1z", "step": 10, "minutes": minutes}
    return {"name": name, "set": "scenes", "seed": seed, "measure": measure, "value": value, **about}


ROWS = [
    *(row("plain", seed, "foreground_ari", value) for seed, value in enumerate([0.9, 0.9, 0.3, 0.9])),
    *(row("plain", seed, "ari", value) for seed, value in enumerate([0.8, 0.1, 0.2, 0.3])),
    *(row("kernel", seed, "foreground_ari", value, None) for seed, value in enumerate([0.5, 0.7])),
    *(row("kernel", seed, "ari", value, None) for seed, value in enumerate([0.3, 0.9])),
]


def test_a_summary_is_mean_sample_deviation_and_least() -> None:
    found = summarise([0.9, 0.9, 0.3, 0.9])
    assert (found.mean, found.std, found.low, found.seeds) == (pytest.approx(0.75), pytest.approx(0.3), 0.3, 4)
    single = summarise([0.4])
    assert (single.mean, single.low, single.seeds) == (0.4, 0.4, 1)
    assert math.isnan(single.std)
    assert all(math.isnan(value) for value in (summarise([0.9, None]).mean, summarise([]).mean))


def test_a_seed_fails_below_any_threshold() -> None:
    assert not failed({"ari": 0.3, "foreground_ari": 0.5}, {"ari": 0.3, "foreground_ari": 0.5})  # at it is not below
    assert failed({"ari": 0.29}, {"ari": 0.3})
    assert failed({"ari": None}, {"ari": 0.3})
    assert failed({}, {"ari": 0.3})
    assert not failed({"ari": -1.0}, {})
    found = failures(ROWS, {"foreground_ari": 0.5, "ari": 0.2})
    assert {run for run, lost in found.items() if lost} == {("plain", "scenes", 1), ("plain", "scenes", 2)}
    assert len(found) == 6


def printed(thresholds: dict[str, float]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=120)
    console.print(table(ROWS, thresholds, ["foreground_ari", "ari"], GENERA1Z))
    return " ".join(stream.getvalue().split())


def test_the_table_says_what_it_shows() -> None:
    text = printed({"foreground_ari": 0.5, "ari": 0.2})
    assert "protocol genera1z" in text
    assert GENERA1Z.counts in text
    assert "a seed fails where foreground_ari < 0.5 or ari < 0.2" in text
    assert "plain 4 0.750 ± 0.300 0.350 ± 0.311 2/4 2.0" in text
    assert "min 0.300 min 0.100" in text
    assert "kernel 2 0.600 ± 0.141 0.600 ± 0.424 0/2 -" in text  # resumed runs have no minutes
    assert "plain 4 0.750 ± 0.300 0.350 ± 0.311 0/4" in printed({})
    assert rule({}) == "no failure threshold is set"


def test_the_contact_sheet_holds_every_picture(tmp_path: Path) -> None:
    colors = ["red", "green", "blue", "black"]
    for color in colors:
        Image.new("RGB", (70, 35), color).save(tmp_path / f"{color}.png")
    tiles = [(color, tmp_path / f"{color}.png") for color in colors]
    with Image.open(contact_sheet(tiles, tmp_path / "sheet.png")) as sheet:
        row_height = WIDTH // 2 + CAPTION + GAP
        assert sheet.size == (3 * (WIDTH + GAP) + GAP, 2 * row_height + GAP)
        middles = [
            sheet.getpixel((GAP + column * (WIDTH + GAP) + WIDTH // 2, GAP + line * row_height + CAPTION + WIDTH // 4))
            for line, column in ((0, 0), (0, 1), (0, 2), (1, 0))
        ]
        assert middles == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)]
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([], tmp_path / "none.png")

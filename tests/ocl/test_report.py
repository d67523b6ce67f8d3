"""A report is one file that needs nothing else, and its pictures are the pictures that were put in."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from ocl.report import Report, Table, as_gif, as_png, figure, picture

VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Every tag that opens closes, in order; collects the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_is_whole_and_escapes_what_it_is_given(tmp_path):
    report = Report("A <b> & B")
    report.section("1 < 2")
    report.paragraph("<script>alert(1)</script>")
    report.table(Table("T", ["name", "x"], [["a<b", ("0.5", "0.4..0.6")], ["c", "–"]], "small & plain"))
    report.figures(figure(picture(as_png(torch.zeros(3, 4, 5, dtype=torch.uint8)), 'a "quoted" picture'), "<i>"))
    page = report.save(tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    parsed = Balance(page)
    assert parsed.open == []
    assert "<script" not in page
    for text in ("A <b> & B", "1 < 2", "<script>alert(1)</script>", "a<b", "0.4..0.6", "small & plain", "<i>"):
        assert text in parsed.text
    assert 'alt="a &quot;quoted&quot; picture"' in page
    assert not re.search(r"https?:|//|@import|url\(", page.split("<body>")[0])
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_table_is_rectangular():
    with pytest.raises(ValueError, match='"T" needs 2 cells'):
        Table("T", ["name", "x"], [["a"]])


def embedded(html: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))


def test_a_picture_comes_back_pixel_for_pixel():
    image = torch.randint(0, 256, (3, 33, 47), dtype=torch.uint8)
    found = embedded(picture(as_png(image), "noise", width=200))
    np.testing.assert_array_equal(np.asarray(found), image.permute(1, 2, 0).numpy())
    with pytest.raises(ValueError, match="PNG or GIF"):
        picture(b"\xff\xd8\xff\xe0", "a JPEG")


def test_an_animation_keeps_its_frames_and_times():
    colors = torch.randint(0, 256, (40, 3), dtype=torch.uint8)
    frames = colors[torch.randint(0, 40, (7, 32, 64))].permute(0, 3, 1, 2)
    found = embedded(picture(as_gif(frames, milliseconds=80), "noise"))
    assert found.n_frames == 7
    times = []
    for index, frame in enumerate(frames):
        found.seek(index)
        times.append(found.info["duration"])
        np.testing.assert_array_equal(np.asarray(found.convert("RGB")), frame.permute(1, 2, 0).numpy())
    assert times == [80] * 6 + [800]
    assert found.info["loop"] == 0
    assert as_gif(frames) == as_gif(frames)


def test_a_table_is_the_same_in_the_terminal():
    shown = Table("Numbers", ["name", "value"], [["first", "1"], ["second", ("2", "1..3")]], "All of them.").rich()
    console = Console(width=60, file=io.StringIO())
    console.print(shown)
    words = console.file.getvalue().split()
    expected = ["Numbers", "name", "value", "first", "1", "second", "2", "1..3", "All", "of", "them."]
    assert [word for word in words if not set(word) <= {"─"}] == expected

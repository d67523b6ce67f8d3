"""One HTML file with everything in it: tables, curves and pictures, readable offline, in light and in dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import rich.box
import rich.table
from PIL import Image
from torch import Tensor
from torchvision.io import encode_png

from ocl.files import write_text

Cell = str | tuple[str, str]
"""Text, or a figure and what is set small beneath it, such as its interval."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #60646c; --rule: #d9dce1; --paper: #fff; --raised: #f6f7f9;
  --line-0: #0b6bcb; --line-1: #d9660a; --line-2: #12805c; --line-3: #a8459c; --line-4: #8a7300; --line-5: #7a808a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9ba1a6; --rule: #33383d; --paper: #151718; --raised: #1d2022;
    --line-0: #6cb2f5; --line-1: #f5a35c; --line-2: #5cc9a0; --line-3: #dc92d3; --line-4: #d3bd4d;
    --line-5: #9ba1a6; } }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
p { max-width: 46rem; margin: .6rem 0; }
.table { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption, figcaption { caption-side: bottom; text-align: left; color: var(--faint); font-size: .85rem;
  padding-top: .5rem; max-width: 46rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; vertical-align: top; border-bottom: 1px solid var(--rule); }
thead th { color: var(--faint); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; font-weight: 600; }
td small { display: block; color: var(--faint); font-size: .78rem; white-space: nowrap; }
figure { margin: 1.2rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
img { max-width: 100%; image-rendering: pixelated; border-radius: 4px; }
svg { width: 34rem; max-width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--rule); } svg .line { fill: none; stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
code { background: var(--raised); padding: .1em .35em; border-radius: 4px; font-size: .88em; }
"""


@dataclass(frozen=True)
class Table:
    """The same rows for the page, the terminal and tests. The first column names the row, the others hold figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f'every row of the table "{self.title}" needs {len(self.columns)} cells.')

    def html(self) -> str:
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            f'<tr><th scope="row">{_cell(row[0])}</th>{"".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])}</tr>'
            for row in self.rows
        )
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        return f'<div class="table"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def rich(self) -> rich.table.Table:
        """For the terminal."""
        shown = rich.table.Table(title=self.title, caption=self.caption, box=rich.box.SIMPLE_HEAD)
        shown.show_edge, shown.padding = False, (0, 0, 0, 1)
        shown.title_justify = shown.caption_justify = "left"
        for number, name in enumerate(self.columns):
            shown.add_column(name, justify="right" if number else "left")
        for row in self.rows:
            shown.add_row(*(cell if isinstance(cell, str) else f"{cell[0]}\n[dim]{cell[1]}[/]" for cell in row))
        return shown


@dataclass
class Report:
    """A page in the making: add sections, paragraphs, tables, figures; then save. All text is escaped."""

    title: str
    parts: list[str] = field(default_factory=list)

    def section(self, title: str) -> None:
        self.parts.append(f"<h2>{escape(title)}</h2>")

    def paragraph(self, text: str) -> None:
        self.parts.append(f"<p>{escape(text)}</p>")

    def table(self, table: Table) -> None:
        self.parts.append(table.html())

    def figures(self, *figures: str) -> None:
        """What `figure` made, side by side where there is room."""
        self.parts.append(f'<div class="row">{"".join(figures)}</div>')

    def save(self, path: str | Path) -> Path:
        head = (
            '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style>"
        )
        body = "\n".join([f"<h1>{escape(self.title)}</h1>", *self.parts])
        return write_text(
            path, f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
        )


def figure(content: str, caption: str = "") -> str:
    """A picture or a chart (HTML) with its caption (text)."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def picture(data: bytes, description: str, width: int | None = None) -> str:
    """A PNG or GIF as HTML, `width` screen pixels wide (its own where None).

    Raises:
        ValueError: another format.
    """
    kinds = {b"\x89PNG": "png", b"GIF8": "gif"}
    if data[:4] not in kinds:
        raise ValueError("a picture must be PNG or GIF.")
    size = "" if width is None else f' width="{width}"'
    source = f"data:image/{kinds[data[:4]]};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{escape(description)}"{size} src="{source}">'


def as_png(image: Tensor) -> bytes:
    """(3 H W) uint8 -> PNG."""
    return bytes(encode_png(image.cpu()).numpy())


def as_gif(frames: Tensor, milliseconds: int = 120) -> bytes:
    """(T 3 H W) uint8 -> an animation that starts again after a pause on its last frame."""
    images = [
        Image.fromarray(frame.permute(1, 2, 0).cpu().numpy()).quantize(dither=Image.Dither.NONE) for frame in frames
    ]
    times = [milliseconds] * (len(images) - 1) + [10 * milliseconds]
    buffer = io.BytesIO()
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0, disposal=1)
    return buffer.getvalue()


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return escape(cell)
    return f"{escape(cell[0])}<small>{escape(cell[1])}</small>"

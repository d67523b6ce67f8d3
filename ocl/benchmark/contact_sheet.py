"""Every failed run in one picture, so that the way in which a method fails is seen at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ocl.files import write_atomically

WIDTH, GAP, CAPTION, COLUMNS = 560, 12, 18, 3  # pixels, pixels, pixels, tiles


def contact_sheet(tiles: Sequence[tuple[str, Path]], path: Path) -> Path:
    """Write the pictures at (caption, file) in rows of three as one PNG, all of the same width.

    Raises:
        ValueError: no tile.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one picture.")
    pictures = [(caption, _at_width(file)) for caption, file in tiles]
    rows = [pictures[first : first + COLUMNS] for first in range(0, len(pictures), COLUMNS)]
    heights = [max(picture.height for _, picture in row) + CAPTION + GAP for row in rows]
    size = (min(len(tiles), COLUMNS) * (WIDTH + GAP) + GAP, sum(heights) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, (caption, picture) in enumerate(row):
            left = GAP + column * (WIDTH + GAP)
            draw.text((left, top), caption, fill="black", font=font)
            sheet.paste(picture, (left, top + CAPTION))
        top += height
    return write_atomically(path, lambda temporary: sheet.save(temporary, "PNG"))


def _at_width(file: Path) -> Image.Image:
    picture = Image.open(file).convert("RGB")
    smaller = Image.Resampling.NEAREST if picture.width <= WIDTH else Image.Resampling.LANCZOS
    return picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), smaller)

"""Tetrominoes: three bevelled pieces on black, 35 x 35, drawn without a download.

The statistics are those of the public Multi-Object Datasets release (Kabra et al., 2019): bevel, colours and pixel-wise
placement as in its preview, and 0.503 of the scenes without an S or Z piece, as counted in a million of its images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.scenes import Scenes

SIZE, CELL, PIECES = 35, 5, 3

BEVEL = np.array(
    [
        [191, 255, 255, 255, 223],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 159, 159, 159, 191],
        [127, 64, 64, 64, 127],
    ],
    dtype=np.uint8,
)
"""Brightness of one cell, top row first, in eighths of full colour: 6 8 8 8 7, 4 5 5 5 6, ..., 4 2 2 2 4."""

COLORS = ("red", "green", "blue", "yellow", "magenta", "cyan")
RGB = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=np.uint8)

DRAWINGS = {
    "O": ("##/##",),
    "I": ("####", "#/#/#/#"),
    "S": (".##/##.", "#./##/.#"),
    "Z": ("##./.##", ".#/##/#."),
    "T": ("###/.#.", ".#/##/.#", ".#./###", "#./##/#."),
    "J": ("#../###", "##/#./#.", "###/..#", ".#/.#/##"),
    "L": ("..#/###", "#./#./##", "###/#..", "##/.#/.#"),
}
SHAPES = tuple(f"{letter}{turn}" for letter, turns in DRAWINGS.items() for turn in range(len(turns)))
"""The 19 fixed tetrominoes: the letter and the number of quarter turns."""


def _cells() -> NDArray[np.int64]:
    """(19 4 2): (row, column) of every cell's corner in pixels, measured from the piece's top left."""
    drawings = [drawing.split("/") for turns in DRAWINGS.values() for drawing in turns]
    cells = [[(y, x) for y, row in enumerate(rows) for x, mark in enumerate(row) if mark == "#"] for rows in drawings]
    return np.array(cells) * CELL


CELLS = _cells()
EXTENT = CELLS.max(axis=1) + CELL
"""(19 2): height and width of every shape in pixels."""


class Tetrominoes(Scenes):
    """Exactly three pieces, anywhere in the frame, touching at most.

    Shapes, colours and positions are uniform and independent; a scene whose pieces overlap in a pixel is drawn anew.

    Attributes: "position" (n 3 2), centre of the piece's bounding box as (x, y) in [0, 1]; "shape" (n 3), index into
    `SHAPES`; "color" (n 3), index into `COLORS`. All pieces are visible.

    Args:
        shapes: the names of `SHAPES` to draw from; all 19 reproduce the published counts.

    Raises:
        ValueError: no shapes, a repeated one, or an unknown name.
    """

    image_size = (SIZE, SIZE)
    max_objects = PIECES
    categories = {"shape": SHAPES, "color": COLORS}

    def __init__(self, size: int, seed: int = 0, block: int = 32, shapes: Sequence[str] = SHAPES) -> None:
        super().__init__(size, seed, block)
        unknown = [shape for shape in shapes if shape not in SHAPES]
        if unknown or not shapes or len(set(shapes)) != len(shapes):
            raise ValueError(f"Tetrominoes: shapes must be different names among {', '.join(SHAPES)}; got {shapes}.")
        self.shapes = tuple(shapes)
        self._choices = np.array([SHAPES.index(shape) for shape in shapes])

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        shape, corner = self._arrange(generator, count)
        color = generator.integers(0, len(COLORS), size=(count, PIECES))
        images, segmentation = render(shape, corner, color)
        center = (corner + EXTENT[shape] / 2) / SIZE
        return {
            "images": images,
            "segmentation": segmentation,
            "visible": np.ones((count, PIECES), dtype=bool),
            "position": center[..., ::-1].astype(np.float32),
            "shape": shape,
            "color": color,
        }

    def _arrange(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shapes (n 3) and top left corners (n 3 2) without overlap: one draw in seven is free of it."""
        shapes, corners, found = [], [], 0
        while found < count:
            draws = 8 * (count - found) + 16
            shape = self._choices[generator.integers(0, len(self._choices), size=(draws, PIECES))]
            corner = generator.integers(0, SIZE - EXTENT[shape] + 1)
            free = ~_overlap(CELLS[shape] + corner[:, :, None])
            shapes.append(shape[free])
            corners.append(corner[free])
            found += len(shapes[-1])
        return np.concatenate(shapes)[:count], np.concatenate(corners)[:count]


def _overlap(cells: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n 3 4 2) cell corners -> (n) whether two pieces share a pixel: two of their cells are less than a cell apart."""
    first, second = [0, 0, 1], [1, 2, 2]
    apart = np.abs(cells[:, first, :, None] - cells[:, second, None]) >= CELL  # (n 3 4 4 2)
    overlap: NDArray[np.bool_] = ~apart.any(axis=-1).all(axis=(1, 2, 3))
    return overlap


def render(
    shape: NDArray[np.int64], corner: NDArray[np.int64], color: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Shapes (n 3), top left (row, column) (n 3 2), colours (n 3) -> images (n 3 H W), segmentation (n H W)."""
    count = len(shape)
    images = np.zeros((count, 3, SIZE * SIZE), dtype=np.uint8)
    segmentation = np.zeros((count, SIZE * SIZE), dtype=np.uint8)
    cells = (CELLS[shape] + corner[:, :, None]) @ np.array([SIZE, 1])  # (n 3 4)
    tile = (np.arange(CELL)[:, None] * SIZE + np.arange(CELL)).reshape(-1)  # (25)
    pixels = (cells[..., None] + tile).reshape(count, -1)  # (n 3*4*25)
    label = np.repeat(np.arange(1, PIECES + 1, dtype=np.uint8), 4 * CELL * CELL)
    np.put_along_axis(segmentation, pixels, label[None], axis=1)
    shade = np.tile(BEVEL.reshape(-1), 4)  # (100)
    values = RGB[color].transpose(0, 2, 1)[..., None] * shade  # (n 3 channels, 3 pieces, 100)
    np.put_along_axis(images, pixels[:, None], values.reshape(count, 3, -1), axis=2)
    return images.reshape(count, 3, SIZE, SIZE), segmentation.reshape(count, SIZE, SIZE)

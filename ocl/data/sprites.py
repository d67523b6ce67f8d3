"""Coloured sprites on black: every stamp is rasterised once, at a tenth of a pixel, and then only pasted.

Shapes, colours and filter are those of the Spriteworld renderer (Watters et al. 2019) in which the object-centric
reinforcement learning tasks of Yoon et al. (ICML 2023) are drawn: polygons of unit area times the scale, filled on a
canvas ten times as fine and reduced with a Lanczos filter.

World coordinates: the unit square, x to the right and **y up**. Positions in `ocl.shapes.Batch` point y down;
`flip_y` is the one conversion between the two.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SHAPES = ("square", "triangle", "star_4", "circle", "star_5", "spoke_4")
"""Names of the shape categories; the first four are those that encoders are trained on."""
COLORS = ("blue", "green", "yellow", "red", "pink", "brown", "cyan")
"""Names (CSS) of the colour categories; the first four are those that encoders are trained on."""

FINE = 10
"""Sub-pixel positions per pixel, and the supersampling of the stamps."""
REACH = 3.0
"""Half width of the Lanczos filter in pixels."""


def flip_y(position: NDArray[Any]) -> NDArray[Any]:
    """(... 2) world (x, y up) <-> image (x, y down), both in [0, 1]; its own inverse."""
    return np.stack([position[..., 0], 1 - position[..., 1]], axis=-1).astype(position.dtype, copy=False)


def polygon(shape: int) -> NDArray[np.float64]:
    """(V 2) corners, y up, of area one around the origin: the sprite `SHAPES[shape]` of scale one."""
    match SHAPES[shape]:
        case "square":
            corners = _regular(4, start=np.pi / 4)
        case "triangle":
            corners = _regular(3)
        case "circle":
            corners = _regular(30, start=0.0)
        case "spoke_4":  # a plus sign: arms as wide as the side of the square that they stand on, reaching 1 beyond it
            side = np.sqrt(0.5)
            right = np.array([[side + 1, -side], [side + 1, side], [side, side]])
            quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
            corners = np.concatenate([right @ np.linalg.matrix_power(quarter, turn).T for turn in range(4)])
        case star:  # the points stand twice as far out as the corners between them; one points up
            points = int(star[-1])
            corners = np.stack([2 * _regular(points), _regular(points, start=np.pi / 2 + np.pi / points)], axis=1)
            corners = corners.reshape(2 * points, 2)
    x, y = corners.T
    area: float = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    return np.asarray(corners / np.sqrt(area))


def _regular(count: int, start: float = np.pi / 2) -> NDArray[np.float64]:
    angle = start + 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


class Stamps(NamedTuple):
    """One sprite at all sub-pixel positions: entry [p, q] has its centre p / FINE rows and q / FINE columns past the
    corner of the middle pixel.

    alpha:  (FINE FINE s s) float32, Lanczos-filtered opacity, slightly outside [0, 1] near edges.
    inside: (FINE FINE s s) bool, the sprite covers at least half of the pixel.
    """

    alpha: NDArray[np.float32]
    inside: NDArray[np.bool_]


@lru_cache(maxsize=64)
def stamps(shape: int, width: float) -> Stamps:
    """The sprite `SHAPES[shape]` with an area of `width`² pixels (`width` = scale x image size)."""
    corners = polygon(shape) * width * FINE
    half = int(np.ceil(np.abs(corners).max())) + 1  # of the fine canvas, whose middle cell is the centre
    canvas = Image.new("1", (2 * half + 1, 2 * half + 1))
    ImageDraw.Draw(canvas).polygon([(x + half, y + half) for x, y in corners], fill=1)
    fine = np.asarray(canvas, dtype=np.float64)[::-1]  # row 0 is the top

    pixel = np.arange(2 * int(np.ceil(half / FINE + REACH)) + 1)
    pixel -= pixel[-1] // 2  # s pixels around the one that holds the centre
    cell = np.arange(-half, half + 1)
    phase = np.arange(FINE)
    distance = (cell + phase[:, None, None] - FINE * pixel[:, None] + 0.5) / FINE - 0.5  # (FINE s cells), in pixels
    filters = np.where(np.abs(distance) < REACH, np.sinc(distance) * np.sinc(distance / REACH), 0.0)
    sample = (np.arange(-REACH * FINE, REACH * FINE) + 0.5) / FINE
    filters /= (np.sinc(sample) * np.sinc(sample / REACH)).sum()
    area = (np.abs(distance) < 0.5) / FINE

    def reduce(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        rows, columns = weights[:, None], weights[None].swapaxes(-1, -2)
        return rows @ fine @ columns

    return Stamps(reduce(filters).astype(np.float32), reduce(area) >= 0.5 - 1e-9)


class SpriteRenderer:
    """Draws sprites into square images of `size` x `size` pixels."""

    palette = np.array([[round(255 * channel) for channel in to_rgb(name)] for name in COLORS], dtype=np.float32)

    def __init__(self, size: int = 64) -> None:
        if size < 1:
            raise ValueError(f"SpriteRenderer: size must be at least 1 pixel, got {size}.")
        self.size = size

    def render(
        self,
        position: NDArray[Any],
        shape: NDArray[Any],
        color: NDArray[Any],
        scale: NDArray[Any],
        visible: NDArray[np.bool_],
        background: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Draw M sprites into each of n images, later columns over earlier ones.

        Args:
            position: (n M 2) centres (x, y up) in [0, 1]; sprites may stick out of the frame or lie outside it.
            shape, color: (n M) indices into `SHAPES` and `COLORS`.
            scale: (n M) square root of the sprite's area, in units of the image side.
            visible: (n M) columns to draw; the values of the others are not looked at.
            background: (n 3 size size) in 0..255, what to draw upon; None: black.

        Returns:
            images (n 3 size size) uint8 and segmentation (n size size) uint8: m + 1 where column m is the last drawn
            sprite that covers at least half of the pixel, else 0.

        Raises:
            ValueError: shapes disagree, more than 255 columns, or a drawn sprite with a category or quantity that
                does not exist.
        """
        self._check(position, shape, color, scale, visible)
        size = self.size
        count = len(position)
        if background is not None and background.shape != (count, 3, size, size):
            raise ValueError(f"sprites: background must be {(count, 3, size, size)}, got {background.shape}.")
        images = np.empty((count, 3, size, size), dtype=np.uint8)
        segmentation = np.zeros((count, size, size), dtype=np.uint8)
        # Rounded to the fine grid, where flipping y maps cell c to cell size * FINE - 1 - c.
        cell = np.rint(np.where(visible[..., None], position, 0.0) * (size * FINE)).astype(np.int64)
        (columns, column_phases) = np.divmod(cell[..., 0], FINE)
        (rows, row_phases) = np.divmod(size * FINE - 1 - cell[..., 1], FINE)
        places = np.stack([rows, columns, row_phases, column_phases], axis=-1).tolist()
        shapes, widths, drawn = shape.tolist(), (np.asarray(scale, dtype=np.float64) * size).tolist(), visible.tolist()
        paint = self.palette[np.where(visible, color, 0)][..., None, None]  # (n M 3 1 1)
        canvas = np.empty((3, size, size), dtype=np.float32)
        for i in range(count):
            canvas[...] = 0.0 if background is None else background[i]
            for m, (row, column, row_phase, column_phase) in enumerate(places[i]):
                if not drawn[i][m]:
                    continue
                alpha, inside = stamps(shapes[i][m], widths[i][m])
                reach = alpha.shape[-1] // 2
                top, left = row - reach, column - reach
                above, before = max(0, -top), max(0, -left)  # what the frame cuts off
                below, after = min(2 * reach + 1, size - top), min(2 * reach + 1, size - left)
                if above >= below or before >= after:
                    continue
                stamp = (row_phase, column_phase, slice(above, below), slice(before, after))
                place = (slice(top + above, top + below), slice(left + before, left + after))
                region = canvas[:, *place]
                region += alpha[stamp] * (paint[i, m] - region)
                segmentation[i, *place][inside[stamp]] = m + 1
            np.rint(canvas, out=canvas)
            np.clip(canvas, 0, 255, out=canvas)
            images[i] = canvas
        return images, segmentation

    def _check(
        self,
        position: NDArray[Any],
        shape: NDArray[Any],
        color: NDArray[Any],
        scale: NDArray[Any],
        visible: NDArray[np.bool_],
    ) -> None:
        if position.ndim != 3 or position.shape[-1] != 2:
            raise ValueError(f"sprites: position must be (n, M, 2), got {position.shape}.")
        if position.shape[1] > 255:
            raise ValueError(f"sprites: at most 255 columns fit a uint8 segmentation, got {position.shape[1]}.")
        for name, values in (("shape", shape), ("color", color), ("scale", scale), ("visible", visible)):
            if values.shape != position.shape[:2]:
                raise ValueError(f"sprites: {name} must be (n, M) = {position.shape[:2]}, got {values.shape}.")
        for name, values, names in (("shape", shape, SHAPES), ("color", color, COLORS)):
            wrong = visible & ((values < 0) | (values >= len(names)))
            if wrong.any():
                raise ValueError(f"sprites: {name} must lie in 0..{len(names) - 1}, got {values[wrong][0]}.")
        if not np.isfinite(position[visible]).all():
            raise ValueError("sprites: the position of a visible sprite is not finite.")
        if not ((scale[visible] > 0) & (scale[visible] < 10)).all():
            raise ValueError("sprites: the scale of a visible sprite must be positive (1 is the width of the image).")


def seen(segmentation: NDArray[np.uint8], columns: int) -> NDArray[np.bool_]:
    """(n H W) label maps -> (n M) bool: column m holds at least one pixel (label m + 1)."""
    flat = segmentation.reshape(len(segmentation), -1)
    return np.stack([(flat == m + 1).any(axis=1) for m in range(columns)], axis=1)

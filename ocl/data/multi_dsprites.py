"""Multi-dSprites: squares, ellipses and hearts over one another, 64 x 64, drawn without a download.

Geometry, colour law and counts are those of the public Multi-Object Datasets release (Kabra et al., 2019): sprite sizes
as measured in the dSprites preview, and 0.817 of the coloured-on-greyscale scenes without a green square.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.scenes import Scenes

SIZE = 64
SHAPES = ("square", "ellipse", "heart")
SCALES = np.linspace(0.5, 1.0, 6)
ANGLES = np.linspace(0.0, 2 * np.pi, 40)
POSITIONS = np.linspace(0.0, 1.0, 32)

SQUARE_SIDE = 19.2
ELLIPSE_AXES = (12.0, 7.8)
HEART_LOBE, HEART_RADIUS, HEART_TIP = 4.0, 5.85, 10.55
"""At scale 1, in pixels: the lobes are circles at (+-4, 0), the sides their tangents from the tip, 10.55 below."""
HEART_CENTER = 1.04
"""The centre of mass lies this far below the lobes' centres."""

WINDOW = 29
"""Side of the square of pixels around a centre that holds every sprite: none reaches 14 pixels from it."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


def inside_square(x: Floats, y: Floats) -> Bools:
    """Coordinates at scale 1, in pixels from the centre, y down."""
    return (np.abs(x) <= SQUARE_SIDE / 2) & (np.abs(y) <= SQUARE_SIDE / 2)


def inside_ellipse(x: Floats, y: Floats) -> Bools:
    """Long axis along x."""
    inside: Bools = np.square(x / ELLIPSE_AXES[0]) + np.square(y / ELLIPSE_AXES[1]) <= 1
    return inside


def inside_heart(x: Floats, y: Floats) -> Bools:
    """Tip down: two discs, and between them and the tip whatever the tangents from the tip enclose."""
    across, down = np.abs(x) - HEART_LOBE, y + HEART_CENTER  # from the centre of the nearer lobe
    turn = np.arctan2(HEART_TIP, -HEART_LOBE) - np.arccos(HEART_RADIUS / np.hypot(HEART_TIP, HEART_LOBE))
    normal_x, normal_y = (
        np.float32(np.cos(turn)),
        np.float32(np.sin(turn)),
    )  # from the lobe to where the tangent touches
    disc = across * across + down * down <= HEART_RADIUS**2
    within_tangent = normal_x * across + normal_y * down <= HEART_RADIUS
    below_touch = normal_x * down - normal_y * across >= 0
    inside: Bools = disc | (within_tangent & below_touch & (down >= 0))
    return inside


INSIDE = (inside_square, inside_ellipse, inside_heart)


class MultiDSprites(Scenes):
    """A uniform number of sprites, each later one drawn over the earlier; edges are binary and no sprite is cut.

    Attributes: "position" (n M 2), the sprite's centre as (x, y) in [0, 1]; "shape" (n M), index into `SHAPES`;
    "scale" (n M) in 0.5, 0.6, ..., 1; "angle" (n M), radians, clockwise on the screen; "rgb" (n M 3), exactly the
    sprite's pixels / 255. Columns beyond the scene's number of sprites are invisible and zero.
    """

    image_size = (SIZE, SIZE)
    categories = {"shape": SHAPES}
    min_objects: int

    @abstractmethod
    def colors(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Sprite colours (n M 3) and background colours (n 3), red, green, blue in 0..255."""

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        size = (count, self.max_objects)
        number = generator.integers(self.min_objects, self.max_objects + 1, size=count)
        present = np.arange(self.max_objects) < number[:, None]
        center = 15.5 + 32 * generator.choice(POSITIONS, size=(*size, 2))  # (x, y) in pixels, 0 the first one's centre
        shape = generator.integers(0, len(SHAPES), size=size)
        scale = generator.choice(SCALES, size=size)
        angle = generator.choice(ANGLES, size=size)
        rgb, background = self.colors(generator, count)
        images, segmentation = render(center, shape, scale, angle, present, rgb, background)
        label = segmentation.reshape(count, -1) + np.arange(count)[:, None] * (self.max_objects + 1)
        pixels = np.bincount(label.reshape(-1), minlength=count * (self.max_objects + 1))
        visible = pixels.reshape(count, -1)[:, 1:] > 0
        attributes: dict[str, NDArray[Any]] = {
            "position": ((center + 0.5) / SIZE).astype(np.float32),
            "shape": shape,
            "scale": scale.astype(np.float32),
            "angle": angle.astype(np.float32),
            "rgb": rgb.astype(np.float32) / 255,
        }
        for values in attributes.values():
            values[~present] = 0
        return {"images": images, "segmentation": segmentation, "visible": visible, **attributes}


class BinarizedMultiDSprites(MultiDSprites):
    """Two or three white sprites on black."""

    min_objects, max_objects = 2, 3

    def colors(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return np.full((count, self.max_objects, 3), 255, np.uint8), np.zeros((count, 3), np.uint8)


class ColoredOnGrayscaleMultiDSprites(MultiDSprites):
    """Two to five sprites of uniform hue, with saturation and value in [0.5, 1], on a uniform grey."""

    min_objects, max_objects = 2, 5

    def colors(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        hue = generator.random((count, self.max_objects))
        saturation, value = generator.uniform(0.5, 1.0, size=(2, count, self.max_objects))
        grey = generator.integers(0, 256, size=(count, 1), dtype=np.uint8)
        return np.rint(255 * hsv_to_rgb(hue, saturation, value)).astype(np.uint8), np.repeat(grey, 3, axis=1)


class ColoredOnColoredMultiDSprites(MultiDSprites):
    """One to four sprites and the background, each of a uniform colour."""

    min_objects, max_objects = 1, 4

    def colors(self, generator: np.random.Generator, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        colors = generator.integers(0, 256, size=(count, self.max_objects + 1, 3), dtype=np.uint8)
        return colors[:, 1:], colors[:, 0]


def hsv_to_rgb(hue: NDArray[Any], saturation: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
    """(...) each in [0, 1] -> (... 3): channel = v - v s max(0, min(k, 4 - k, 1)), k = 6 h + (5, 3, 1) modulo 6."""
    k = (6 * hue[..., None] + np.array([5, 3, 1])) % 6
    dip = np.clip(np.minimum(k, 4 - k), 0, 1)
    rgb: NDArray[Any] = value[..., None] * (1 - saturation[..., None] * dip)
    return rgb


def render(
    center: NDArray[Any],
    shape: NDArray[np.int64],
    scale: NDArray[Any],
    angle: NDArray[Any],
    present: Bools,
    rgb: NDArray[np.uint8],
    background: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint sprites (n M ...) in the order of their columns -> images (n 3 H W), segmentation (n H W).

    A pixel belongs to a sprite when its centre lies inside the outline.
    """
    count, objects = shape.shape
    corner = np.rint(center).astype(np.int64) - WINDOW // 2  # (n M 2)
    covered = _covered(center - corner, shape, scale, angle)  # (n M W W)
    images = np.empty((count, 3, SIZE * SIZE), dtype=np.uint8)
    images[:] = background[:, :, None]
    segmentation = np.zeros((count, SIZE * SIZE), dtype=np.uint8)
    first = corner @ np.array([1, SIZE])  # (n M)
    for column in range(objects):
        row, y, x = np.nonzero(covered[:, column] & present[:, column, None, None])
        pixel = first[row, column] + y * SIZE + x
        segmentation[row, pixel] = column + 1
        images[row, :, pixel] = rgb[row, column]
    return images.reshape(count, 3, SIZE, SIZE), segmentation.reshape(count, SIZE, SIZE)


def _covered(center: NDArray[Any], shape: NDArray[np.int64], scale: NDArray[Any], angle: NDArray[Any]) -> Bools:
    """(n M W W): which pixels of its window each sprite covers; `center` (n M 2) counts from the window's corner."""
    covered = np.empty((*shape.shape, WINDOW, WINDOW), dtype=bool)
    pixel = np.arange(WINDOW, dtype=np.float32)
    for number, inside in enumerate(INSIDE):
        chosen = shape == number
        x = (pixel[None, :] - center[chosen][:, :1]).astype(np.float32)[:, None, :]  # (k 1 W)
        y = (pixel[None, :] - center[chosen][:, 1:]).astype(np.float32)[:, :, None]  # (k W 1)
        cosine = (np.cos(angle[chosen]) / scale[chosen]).astype(np.float32)[:, None, None]
        sine = (np.sin(angle[chosen]) / scale[chosen]).astype(np.float32)[:, None, None]
        covered[chosen] = inside(cosine * x + sine * y, cosine * y - sine * x)
    return covered

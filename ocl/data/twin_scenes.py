"""Scenes that hold exact duplicates of an object: same look, other place, so that looks cannot tell objects apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ocl.data.backgrounds import Background, GradientBackground, NoiseBackground, TextureBackground
from ocl.data.scenes import Scenes
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer, flip_y, seen

MOST_TRIES, CANDIDATES = 1000, 16
CLASSES = tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)
"""Names of the classes: class shape * len(COLORS) + color, the same numbers whatever subset is drawn."""


class TwinScenes(Scenes):
    """Sprites of a few kinds on patterned backgrounds; objects of one kind are twins, equal pixel by pixel.

    A kind is a shape, a colour, a scale and a pattern of its own (drawn anew for every scene); the objects of a scene
    take its kinds in turn. Kinds of one scene differ in shape or colour, that is in class. Centres lie on whole pixels
    and edges are binary, so twins differ only where something lies in front of one of them. The scenes are this
    library's own; no publication fixes them.

    Attributes of an item, M = the most objects: "class", "shape" and "color" (M) int64 (`categories` names them),
    "position" (M 2) float32 as (x, y down), "scale" (M) float32, "visible" (M) bool. Visible objects of one class
    in a scene are twins. Columns past the number of objects in a scene are not visible; neither are hidden objects.

    Args:
        size, seed, block: see `Scenes`.
        image_size: pixels along each side.
        num_objects: the least and the most objects in a scene, each number equally likely.
        kinds: different kinds of objects in a scene; below the least number of objects, every scene holds twins.
        shapes, colors, scales: what kinds are drawn from, uniformly.
        separation: least distance between two centres, in units of the image side.
        lattice: twins stand a multiple of so many pixels apart in x and in y. At the patch size of an encoder, they
            fall on its patches in the same way, so that their patches are equal too.
        backgrounds: what is drawn from, uniformly and per image; None: gradient, texture and noise.
        texture: share of the range of brightness that the background's pattern spans, in [0, 1].
        contrast: how far the objects' colours lie from the mean background towards the pure colour, in (0, 1].
        object_texture: share of the kind's own pattern in its objects' colours, in [0, 1).

    Raises:
        ValueError: an unknown name, an empty list, a number out of range, more kinds than classes, or objects that do
            not fit.
    """

    categories: ClassVar[dict[str, tuple[str, ...]]] = {"class": CLASSES, "shape": SHAPES, "color": COLORS}

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 32,
        *,
        image_size: int = 64,
        num_objects: tuple[int, int] = (3, 5),
        kinds: int = 2,
        shapes: Sequence[str] = SHAPES[:4],
        colors: Sequence[str] = COLORS[:4],
        scales: Sequence[float] = (0.22, 0.28),
        separation: float = 0.28,
        lattice: int = 1,
        backgrounds: Sequence[Background] | None = None,
        texture: float = 0.5,
        contrast: float = 0.8,
        object_texture: float = 0.25,
    ) -> None:
        super().__init__(size, seed, block)
        least, most = num_objects
        self._pairs = _classes(shapes, colors)
        self._require(1 <= least <= most <= 255, f"num_objects must be 1 <= least <= most <= 255, got {num_objects}")
        self._require(
            1 <= kinds <= len(self._pairs), f"kinds must be in 1..{len(self._pairs)}, the classes, got {kinds}"
        )
        self._require(
            len(scales) > 0 and all(0 < s < 1 for s in scales), f"scales must lie between 0 and 1, got {scales}"
        )
        self._require(0 <= separation < 1, f"separation must be at least 0 and below 1, got {separation}")
        self._require(1 <= lattice <= image_size, f"lattice must be in 1..{image_size} pixels, got {lattice}")
        self._require(
            0 <= texture <= 1 and 0 < contrast <= 1 and 0 <= object_texture < 1,
            "texture must be in [0, 1], contrast in (0, 1] and object_texture in [0, 1), got "
            f"{texture}, {contrast} and {object_texture}",
        )
        self._require(backgrounds is None or len(backgrounds) > 0, "backgrounds must name at least one")
        for background in backgrounds or ():
            if not isinstance(background, Background):
                raise TypeError(f"TwinScenes: backgrounds must be built `Background`s, got {background!r}.")
        defaults = (GradientBackground(), TextureBackground(), NoiseBackground())
        self._backgrounds = defaults if backgrounds is None else tuple(backgrounds)
        self.backgrounds = [repr(background) for background in self._backgrounds]
        self.image_size, self.max_objects, self.least_objects = (image_size, image_size), most, least
        self.kinds, self.shapes, self.colors, self.scales = kinds, tuple(shapes), tuple(colors), tuple(scales)
        self.separation, self.lattice = separation, lattice
        self.texture, self.contrast, self.object_texture = texture, contrast, object_texture
        self.renderer = SpriteRenderer(image_size)

    def _require(self, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__}: {rule}.")

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        kind = np.arange(self.max_objects) % self.kinds  # (M)
        several = np.tile(self._pairs, (count, 1))
        category = generator.permuted(several, axis=1)[:, : self.kinds][:, kind]  # (n M)
        shape, color = np.divmod(category, len(COLORS))
        scale = generator.choice(self.scales, (count, self.kinds))[:, kind]
        offset = generator.integers(self.lattice, size=(count, self.kinds, 2))[:, kind]
        present = np.arange(self.max_objects) < generator.integers(self.least_objects, self.max_objects + 1, (count, 1))
        pixel = self._place(generator, scale, offset)
        position = flip_y(pixel / self.image_size[0])  # the renderer's y points up
        _, segmentation = self.renderer.render(position, shape, color, scale, present)
        return {
            "images": self._paint(generator, segmentation, color, pixel),
            "segmentation": segmentation,
            "visible": seen(segmentation, self.max_objects),
            "position": (pixel / self.image_size[0]).astype(np.float32),
            "class": category,
            "shape": shape,
            "color": color,
            "scale": scale.astype(np.float32),
        }

    def _place(
        self, generator: np.random.Generator, scale: NDArray[np.float64], offset: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """(n M) scales and (n M 2) offsets on the lattice -> (n M 2) centres (x, y down) in pixels: where a square of
        that scale stays inside the frame and no earlier column is nearer than the separation. Scenes in which a column
        finds no place start again."""
        side, columns = self.image_size[0], scale.shape[1]
        centre = np.empty((*scale.shape, 2), dtype=np.int64)
        waiting = np.arange(len(scale))
        for _ in range(MOST_TRIES):
            placed = np.empty((len(waiting), columns, 2), dtype=np.int64)
            found = np.ones(len(waiting), dtype=bool)
            for m in range(columns):
                shift, margin = offset[waiting, m, None], side * scale[waiting, m, None, None] / 2
                cell = generator.integers(side // self.lattice + 1, size=(len(waiting), CANDIDATES, 2))
                drawn = cell * self.lattice + shift  # (scenes, candidates, 2)
                inside = ((drawn >= margin) & (drawn <= side - margin)).all(axis=-1)
                distance = np.linalg.norm(placed[:, None, :m] - drawn[:, :, None], axis=-1)
                clear = inside & (distance >= self.separation * side).all(axis=-1)
                placed[:, m] = drawn[np.arange(len(waiting)), clear.argmax(axis=1)]
                found &= clear.any(axis=1)
            centre[waiting[found]] = placed[found]
            waiting = waiting[~found]
            if not len(waiting):
                return centre
        raise ValueError(
            f"{type(self).__name__}: no room for {columns} objects at a separation of {self.separation} on a lattice "
            f"of {self.lattice} pixels; ask for fewer objects, a smaller separation or a finer lattice."
        )

    def _paint(
        self,
        generator: np.random.Generator,
        segmentation: NDArray[np.uint8],
        color: NDArray[np.int64],
        centre: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Label maps (n H W), colours (n M) and centres (n M 2) -> images (n 3 H W)."""
        count, side = len(segmentation), self.image_size[0]
        texture, contrast = np.float32(self.texture), np.float32(self.contrast)
        mean = texture / 2 + (1 - texture) * generator.random((count, 3), dtype=np.float32)
        image = mean[..., None, None] + texture / 2 * self._pattern(generator, count)
        pure = self.renderer.palette[color] / np.float32(255)  # (n M 3)
        paint = mean[:, None] + contrast * (pure - mean[:, None])
        scene, y, x = np.nonzero(segmentation)
        column = segmentation[scene, y, x].astype(np.int64) - 1
        fill = paint[scene, column]  # (pixels of objects, 3)
        if self.object_texture:
            own = self._pattern(generator, count * self.kinds).reshape(count, self.kinds, 3, side, side)
            middle = centre[scene, column]  # a kind's pattern travels with its objects
            row, place = (y - middle[:, 1] + side // 2) % side, (x - middle[:, 0] + side // 2) % side
            share = np.float32(self.object_texture)
            fill += share * ((1 + own[scene, column % self.kinds, :, row, place]) / 2 - fill)
        image[scene, :, y, x] = fill
        rounded: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8)
        return rounded

    def _pattern(self, generator: np.random.Generator, count: int) -> NDArray[np.float32]:
        """(n 3 H W) in [-1, 1], each from one of the backgrounds."""
        side = self.image_size[0]
        chosen = generator.integers(len(self._backgrounds), size=count)
        pattern = np.empty((count, 3, side, side), dtype=np.float32)
        for number, background in enumerate(self._backgrounds):
            rows = np.nonzero(chosen == number)[0]
            pattern[rows] = background.pattern(generator, len(rows), side)
        return pattern


def _classes(shapes: Sequence[str], colors: Sequence[str]) -> NDArray[np.int64]:
    """The classes of every shape in every colour, sorted."""
    for argument, names, known in (("shapes", shapes, SHAPES), ("colors", colors, COLORS)):
        if not names or not set(names) <= set(known):
            raise ValueError(f"TwinScenes: {argument} must be among {', '.join(known)}; got {list(names)}.")
    pairs = {SHAPES.index(shape) * len(COLORS) + COLORS.index(color) for shape in shapes for color in colors}
    return np.array(sorted(pairs), dtype=np.int64)

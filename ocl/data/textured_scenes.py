"""Hard sprite scenes: objects that share colours, on backgrounds whose structure asks for slots of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.backgrounds import Background, GradientBackground, NoiseBackground, TextureBackground
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.sprites import COLORS, SHAPES


class TexturedScenes(SpriteScenes):
    """Sprites of few colours on textured, graded or noisy backgrounds, for comparing how methods hold them apart.

    The scenes are this library's own; no publication fixes them. Every image draws a background, a mean colour for it
    and `colors_per_image` colours, which its objects take in turn: with 2, three objects or more always share one.
    Edges are binary: every pixel belongs wholly to the object that labels it, or to the background. The easy control is
    a `PlainBackground` at texture 1 (the same grey in all images), full contrast and as many colours as objects.

    Attributes are those of `SpriteScenes`.

    Args:
        size, seed, block: see `Scenes`.
        image_size, num_objects, shapes, colors, scales, separation: see `SpriteScenes`.
        colors_per_image: different colours among the objects of an image, drawn from `colors`.
        backgrounds: what is drawn from, uniformly and per image; None: gradient, texture and noise.
        texture: how much of the range of brightness the background's pattern spans, in [0, 1]. The mean colour is
            uniform in what remains, so that nothing is clipped: at 1 it is always mid-grey.
        contrast: how far the objects' colours lie from the mean background, as a share of the way to the pure
            colour, in (0, 1].
        object_texture: share of a pattern of the same backgrounds in the objects' colours, in [0, 1).

    Raises:
        ValueError: as `SpriteScenes`; more colours per image than colours; no backgrounds; a share out of range.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 32,
        *,
        image_size: int = 64,
        num_objects: tuple[int, int] = (3, 6),
        shapes: Sequence[str] = SHAPES[:4],
        colors: Sequence[str] = COLORS[:4],
        scales: Sequence[float] = (0.15, 0.22),
        separation: float = 0.15,
        colors_per_image: int = 2,
        backgrounds: Sequence[Background] | None = None,
        texture: float = 0.6,
        contrast: float = 0.7,
        object_texture: float = 0.1,
    ) -> None:
        super().__init__(
            size,
            seed,
            block,
            image_size=image_size,
            num_objects=num_objects,
            shapes=shapes,
            colors=colors,
            scales=scales,
            separation=separation,
        )
        if not 1 <= colors_per_image <= len(set(colors)):
            raise ValueError(
                f"TexturedScenes: colors_per_image must be in 1..{len(set(colors))}, the different colors given, "
                f"got {colors_per_image}."
            )
        if backgrounds is not None and not backgrounds:
            raise ValueError("TexturedScenes: backgrounds must name at least one; None draws from the three defaults.")
        for background in backgrounds or ():
            if not isinstance(background, Background):
                raise TypeError(f"TexturedScenes: backgrounds must be built `Background`s, got {background!r}.")
        if not (0 <= texture <= 1 and 0 < contrast <= 1 and 0 <= object_texture < 1):
            raise ValueError(
                "TexturedScenes: texture must be in [0, 1], contrast in (0, 1] and object_texture in [0, 1), got "
                f"{texture}, {contrast} and {object_texture}."
            )
        defaults = (GradientBackground(), TextureBackground(), NoiseBackground())
        self._backgrounds = defaults if backgrounds is None else tuple(backgrounds)
        self.backgrounds = [repr(background) for background in self._backgrounds]
        self.colors_per_image = colors_per_image
        self.texture, self.contrast, self.object_texture = texture, contrast, object_texture

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        scenes = super().generate(generator, count)  # places and masks; colours and pixels are drawn anew
        several = np.tile(np.unique(self.colors), (count, 1))
        drawn = generator.permuted(several, axis=1)[:, : self.colors_per_image]
        scenes["color"] = drawn[:, np.arange(self.max_objects) % self.colors_per_image]
        scenes["images"] = self._paint(generator, scenes)
        return scenes

    def _paint(self, generator: np.random.Generator, scenes: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
        """Label maps (n H W) and colours (n M) among the attributes -> images (n 3 H W)."""
        segmentation = scenes["segmentation"]
        count = len(segmentation)
        texture, contrast = np.float32(self.texture), np.float32(self.contrast)
        mean = texture / 2 + (1 - texture) * generator.random((count, 3), dtype=np.float32)
        image = mean[..., None, None] + texture / 2 * self._pattern(generator, self._behind(generator, scenes))
        pure = self.renderer.palette[scenes["color"]] / np.float32(255)  # (n M 3)
        paint = mean[:, None] + contrast * (pure - mean[:, None])
        labels, pixels = segmentation.reshape(count, -1), image.reshape(count, 3, -1)
        scene, pixel = np.nonzero(labels)
        fill = paint[scene, labels[scene, pixel] - 1]  # (pixels of objects, 3)
        if self.object_texture:
            pattern = self._pattern(generator, generator.integers(len(self._backgrounds), size=count))
            own = (1 + pattern.reshape(pixels.shape)[scene, :, pixel]) / 2
            fill += np.float32(self.object_texture) * (own - fill)
        pixels[scene, :, pixel] = fill
        rounded: NDArray[np.uint8] = np.rint(255 * image).astype(np.uint8)
        return rounded

    def _behind(self, generator: np.random.Generator, scenes: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        """(n) which of the backgrounds lies behind each scene."""
        return generator.integers(len(self._backgrounds), size=len(scenes["segmentation"]))

    def _pattern(self, generator: np.random.Generator, kind: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n) backgrounds -> (n 3 H W) in [-1, 1]."""
        size = self.image_size[0]
        pattern = np.empty((len(kind), 3, size, size), dtype=np.float32)
        for number, background in enumerate(self._backgrounds):
            rows = np.nonzero(kind == number)[0]
            pattern[rows] = background.pattern(generator, len(rows), size)
        return pattern

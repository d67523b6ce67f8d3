"""Scenes whose background gives the class away in training and not in the test: a shortcut, with exact masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.backgrounds import Background, NoiseBackground, TextureBackground
from ocl.data.sprite_scenes import indices_of
from ocl.data.sprites import COLORS, SHAPES
from ocl.data.textured_scenes import TexturedScenes


class SpuriousScenes(TexturedScenes):
    """One object of a class and distractors, which are of none, on a background that goes with the class.

    The construction is that of Waterbirds (Sagawa et al., ICLR 2020) with drawn objects, by default four classes on two
    backgrounds; the scenes are this library's own. The class is the shape of the object in column 0. Its own background
    lies behind it with probability `correlation`, each of the others equally often otherwise. Colours and the objects'
    own patterns say nothing of the class. Distractors have shapes outside the classes: a foreground score has to tell
    the object from them, where a source of masks that offers the object alone would leave it nothing to do.

    Attributes of an item are those of `TexturedScenes` and, the same in each of its M columns because they belong to
    the image, "class" (an index into `classes`), "background" and "group" (class * backgrounds + background), int64.

    Args:
        size, seed, block: see `Scenes`.
        correlation: probability of the class's own background (class c has number c modulo the backgrounds); None:
            balanced, so that each block holds all groups equally often.
        classes: shapes that are classes, drawn uniformly.
        distractors: shapes that are not.
        num_distractors: the fewest and the most in a scene, each number equally likely.
        backgrounds: what is correlated; None: stripes and checks, clouds.
        image_size, colors, scales, separation, texture, contrast, object_texture: see `TexturedScenes`. The separation
            keeps distractors from hiding the object.

    Raises:
        ValueError: as `TexturedScenes`; fewer than two classes or backgrounds, a shape on both sides, a correlation
            outside [0, 1], or a balanced set whose blocks do not hold whole rounds of the groups.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 32,
        *,
        correlation: float | None = 0.95,
        classes: Sequence[str] = SHAPES[:4],
        distractors: Sequence[str] = SHAPES[4:],
        num_distractors: tuple[int, int] = (1, 1),
        backgrounds: Sequence[Background] | None = None,
        image_size: int = 48,
        colors: Sequence[str] = COLORS[:4],
        scales: Sequence[float] = (0.3, 0.35),
        separation: float = 0.42,
        texture: float = 0.6,
        contrast: float = 0.7,
        object_texture: float = 0.1,
    ) -> None:
        fewest, most = num_distractors
        if not 0 <= fewest <= most:
            raise ValueError(
                f"SpuriousScenes: num_distractors must be 0 <= fewest <= most, got {tuple(num_distractors)}."
            )
        super().__init__(
            size,
            seed,
            block,
            image_size=image_size,
            num_objects=(1 + fewest, 1 + most),
            shapes=classes,
            colors=colors,
            scales=scales,
            separation=separation,
            colors_per_image=min(1 + most, len(set(colors))),
            backgrounds=(TextureBackground(), NoiseBackground()) if backgrounds is None else backgrounds,
            texture=texture,
            contrast=contrast,
            object_texture=object_texture,
        )
        self.distractors = indices_of("SpuriousScenes: distractors", distractors, SHAPES)
        self.classes, self.correlation = tuple(classes), correlation
        groups = len(self.classes) * len(self.backgrounds)
        if len(set(self.classes)) < max(2, len(self.classes)) or len(self.backgrounds) < 2:
            raise ValueError(
                "SpuriousScenes: give at least two classes, all different, and two backgrounds, got "
                f"{list(classes)} and {self.backgrounds}."
            )
        if set(self.classes) & set(distractors):
            raise ValueError(f"SpuriousScenes: a shape is a class or a distractor, not both: {list(distractors)}.")
        if correlation is not None and not 0 <= correlation <= 1:
            raise ValueError(f"SpuriousScenes: correlation must be in [0, 1] or None for balance, got {correlation}.")
        if correlation is None and self.block % groups:
            raise ValueError(f"SpuriousScenes: a balanced block must be a multiple of {groups} groups, got {block}.")

    @property
    def group_names(self) -> tuple[str, ...]:
        """Names of the values of "group"."""
        behind = [text.split("Background(")[0].lower() for text in self.backgrounds]
        return tuple(f"{name} on {background}" for name in self.classes for background in behind)

    def _shapes(self, generator: np.random.Generator, many: tuple[int, int]) -> NDArray[np.int64]:
        shape = generator.choice(self.distractors, many)
        classes = len(self.shapes)
        if self.correlation is None:
            shape[:, 0] = self.shapes[generator.permutation(many[0]) % classes]
        else:
            shape[:, 0] = self.shapes[generator.integers(classes, size=many[0])]
        return shape

    def _paint(self, generator: np.random.Generator, scenes: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
        kinds = len(self.backgrounds)
        label = (scenes["shape"][:, :1] == self.shapes).argmax(axis=1)  # (n)
        if self.correlation is None:
            order = np.lexsort((generator.random(len(label)), label))  # by class, at random inside it
            background = np.empty_like(label)
            background[order] = np.arange(len(label)) % kinds
        else:
            other = (label + generator.integers(1, kinds, size=len(label))) % kinds
            background = np.where(generator.random(len(label)) < self.correlation, label % kinds, other)
        columns = np.ones((1, self.max_objects), dtype=np.int64)
        scenes["class"], scenes["background"] = label[:, None] * columns, background[:, None] * columns
        scenes["group"] = scenes["class"] * kinds + scenes["background"]
        return super()._paint(generator, scenes)

    def _behind(self, generator: np.random.Generator, scenes: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
        return scenes["background"][:, 0]

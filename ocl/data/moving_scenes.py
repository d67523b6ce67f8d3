"""Clips of moving sprites with exact tracks: they enter, leave, bounce and pass behind each other; the camera pans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ocl.data.backgrounds import Background, GradientBackground, NoiseBackground, TextureBackground
from ocl.data.scenes import Scenes
from ocl.data.sprite_scenes import indices_of
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer, flip_y, seen

Floats = NDArray[np.float64]


class MovingScenes(Scenes):
    """Clips of T frames. Every object keeps its column, its look and its depth; later columns pass in front.

    Objects move on straight lines at a constant speed. A share of them bounces off the borders of the first frame's
    view; the others know no borders, so they enter and leave: each is in view at one moment drawn from the clip. The
    camera pans at a constant velocity, whole pixels at a time, and objects and background shift alike. Edges are
    binary. The clips are this library's own; no publication fixes them.

    An item: "images" (T 3 H W) uint8 and "segmentation" (T H W); "visible" (T M) bool, at least a pixel is seen in that
    frame; "position" (T M 2) float32 as (x, y down) of the view, also where it lies outside [0, 1] or is hidden;
    "present" (M) bool, the columns that hold an object; "shape", "color" (M) int64, "scale" (M) float32; "camera"
    (T 2) float32, how far the view has moved, in image sides, as (x, y down).

    Args:
        size, seed, block: see `Scenes`.
        frames: T.
        image_size: pixels along each side.
        num_objects: the least and the most objects in a clip, each number equally likely.
        shapes, colors, scales: what is drawn from, uniformly and independently; objects may look alike.
        speed: the least and the most of an object, in image sides per frame.
        bouncing: share of the objects that bounce, in [0, 1].
        pan: the fastest camera, in image sides per frame, drawn from 0 up; 0 holds it still.
        backgrounds: what is drawn from, uniformly and per clip; None: gradient, texture and noise.
        texture, contrast: as in `ocl.data.textured_scenes.TexturedScenes`.
        brightness: the most of a channel of the background, at least `texture`; 0 is black, as in
            `ocl.data.sprite_scenes.SpriteScenes`.

    Raises:
        ValueError: an unknown name, an empty list, a range the wrong way round or a number out of range.
    """

    categories: ClassVar[dict[str, tuple[str, ...]]] = {"shape": SHAPES, "color": COLORS}

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 8,
        *,
        frames: int = 8,
        image_size: int = 64,
        num_objects: tuple[int, int] = (3, 5),
        shapes: Sequence[str] = SHAPES[:4],
        colors: Sequence[str] = COLORS,
        scales: Sequence[float] = (0.15, 0.22),
        speed: tuple[float, float] = (0.02, 0.08),
        bouncing: float = 0.5,
        pan: float = 0.02,
        backgrounds: Sequence[Background] | None = None,
        texture: float = 0.4,
        contrast: float = 0.8,
        brightness: float = 1.0,
    ) -> None:
        super().__init__(size, seed, block)
        least, most = num_objects
        if frames < 1 or not 1 <= least <= most <= 255:
            raise ValueError(
                f"MovingScenes: needs at least one frame and 1 <= least <= most <= 255 objects, got {frames} and "
                f"{tuple(num_objects)}."
            )
        if not scales or not all(0 < scale < 1 for scale in scales):
            raise ValueError(f"MovingScenes: scales must be numbers between 0 and 1, got {list(scales)}.")
        slowest, fastest = speed
        if not (0 <= slowest <= fastest < 1 and 0 <= bouncing <= 1 and 0 <= pan < 1):
            raise ValueError(
                "MovingScenes: speed must be 0 <= least <= most < 1, bouncing in [0, 1] and pan in [0, 1), got "
                f"{tuple(speed)}, {bouncing} and {pan}."
            )
        if not (0 <= texture <= brightness <= 1 and 0 < contrast <= 1) or (backgrounds is not None and not backgrounds):
            raise ValueError(
                "MovingScenes: needs a background, 0 <= texture <= brightness <= 1 and contrast in (0, 1], got "
                f"{texture}, {brightness} and {contrast}."
            )
        self.frames, self.image_size = frames, (image_size, image_size)
        self.least_objects, self.max_objects = least, most
        self.shapes = indices_of("MovingScenes: shapes", shapes, SHAPES)
        self.colors = indices_of("MovingScenes: colors", colors, COLORS)
        self.scales = np.array(scales, dtype=np.float64)
        self.speed, self.bouncing, self.pan = (float(slowest), float(fastest)), bouncing, pan
        self.texture, self.contrast, self.brightness = texture, contrast, brightness
        defaults = (GradientBackground(), TextureBackground(), NoiseBackground())
        self._backgrounds = defaults if backgrounds is None else tuple(backgrounds)
        self.backgrounds = [repr(background) for background in self._backgrounds]
        self.renderer = SpriteRenderer(image_size)

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        many, frames, side = (count, self.max_objects), self.frames, self.image_size[0]
        present = np.arange(self.max_objects) < generator.integers(self.least_objects, self.max_objects + 1, (count, 1))
        shape, color = generator.choice(self.shapes, many), generator.choice(self.colors, many)
        scale = generator.choice(self.scales, many)
        camera = self._camera(generator, count)  # (n T 2) pixels
        position = self._tracks(generator, scale, camera / side)  # (n T M 2), y down, of the view
        each = [
            np.repeat(values[:, None], frames, 1).reshape(-1, *many[1:]) for values in (shape, color, scale, present)
        ]
        drawn = flip_y(position.reshape(-1, self.max_objects, 2))
        segmentation = self.renderer.render(drawn, *each)[1]
        visible = seen(segmentation, self.max_objects).reshape(count, frames, -1)
        segmentation = segmentation.reshape(count, frames, side, side)
        return {
            "images": self._paint(generator, segmentation, color, camera),
            "segmentation": segmentation,
            "visible": visible,
            "position": position.astype(np.float32),
            "present": present,
            "shape": shape,
            "color": color,
            "scale": scale.astype(np.float32),
            "camera": (camera / side).astype(np.float32),
        }

    def _camera(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(n T 2) whole pixels that the view has moved since the first frame."""
        angle, speed = 2 * np.pi * generator.random(count), self.pan * generator.random(count)
        velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        moved = velocity[:, None] * np.arange(self.frames)[:, None] * self.image_size[0]
        pixels: NDArray[np.int64] = np.rint(moved).astype(np.int64)
        return pixels

    def _tracks(self, generator: np.random.Generator, scale: Floats, camera: Floats) -> Floats:
        """(n M) scales and (n T 2) camera in image sides -> (n T M 2) centres in the view."""
        margin = scale[..., None] / 2  # (n M 1)
        moment = generator.integers(self.frames, size=scale.shape)  # when a straight track is in view, and where
        place = margin + (1 - 2 * margin) * generator.random((*scale.shape, 2))
        angle = 2 * np.pi * generator.random(scale.shape)
        speed = generator.uniform(*self.speed, scale.shape)[..., None]
        velocity = speed * np.stack([np.cos(angle), np.sin(angle)], axis=-1)  # (n M 2)
        bounces = generator.random(scale.shape) < self.bouncing
        time = np.arange(self.frames)[:, None]  # (T 1)
        since = (time - moment[:, None])[..., None]  # (n T M 1)
        there = np.take_along_axis(camera, moment[..., None], axis=1)  # (n M 2) the view's corner at that moment
        straight = (place + there)[:, None] + velocity[:, None] * since
        free = place[:, None] + velocity[:, None] * time[..., None]
        world = np.where(bounces[:, None, :, None], reflected(free, margin[:, None]), straight)
        tracks: Floats = world - camera[:, :, None]
        return tracks

    def _paint(
        self,
        generator: np.random.Generator,
        segmentation: NDArray[np.uint8],
        color: NDArray[np.int64],
        camera: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Label maps (n T H W), colours (n M), camera (n T 2) pixels -> images (n T 3 H W)."""
        count, frames, side, _ = segmentation.shape
        texture, contrast = np.float32(self.texture), np.float32(self.contrast)
        mean = texture / 2 + (np.float32(self.brightness) - texture) * generator.random((count, 3), dtype=np.float32)
        reach = int(np.ceil(self.pan * side * (frames - 1))) + 1
        kinds: NDArray[np.int64] = generator.integers(len(self._backgrounds), size=(count,))
        pure = self.renderer.palette[color] / np.float32(255)  # (n M 3)
        paint = mean[:, None] + contrast * (pure - mean[:, None])
        images = np.empty((count, frames, 3, side, side), dtype=np.uint8)
        for clip, kind in enumerate(kinds.tolist()):
            pattern = self._backgrounds[kind].pattern(generator, 1, side + 2 * reach)[0]
            wide = mean[clip, :, None, None] + texture / 2 * pattern
            for frame, (right, down) in enumerate(reach + camera[clip]):
                view = wide[:, down : down + side, right : right + side].copy()
                labels = segmentation[clip, frame]
                inside = labels > 0
                view[:, inside] = paint[clip, labels[inside] - 1].T
                images[clip, frame] = np.rint(255 * view)
        return images


def reflected(free: Floats, margin: Floats) -> Floats:
    """Where a free line ends up between walls at `margin` and 1 - `margin`: the triangle wave through it."""
    span = 1 - 2 * margin
    turn = np.mod(free - margin, 2 * span)
    inside: Floats = margin + np.minimum(turn, 2 * span - turn)
    return inside

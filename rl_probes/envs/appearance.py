"""Shifts of appearance: the same episodes under another background, another light, or among things that are no objects.

A sprite world draws its objects over and under them, so that positions, masks and everything that an episode does stay
what they were. They are this library's own; no publication fixes them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from ocl.data.backgrounds import Background, TextureBackground
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer

Canvas = NDArray[np.float32]


class Appearance:
    """What one episode looks like besides its objects; the same in all its frames, a function of its seed.

    strength: in [0, 1]; at 0 nothing changes.
    """

    strength: float

    def behind(self, generator: np.random.Generator, canvas: Canvas) -> Canvas:
        """(3 S S) in 0..255, what lies behind the objects so far -> with this shift."""
        return canvas

    def light(self, generator: np.random.Generator, size: int) -> Canvas | None:
        """(S S) in [0, 1], the share of everything's brightness that is left; None: all of it."""
        return None

    def describe(self) -> str:
        """For manifests: class and arguments."""
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if not name.startswith("_"))
        return f"{type(self).__name__}({arguments})"


class Textured(Appearance):
    """A pattern behind the objects, between black and full brightness.

    Args:
        strength: the brightest value of the pattern, of 1.
        background: the law of the pattern; None: stripes and checks at any angle in a colour and its opposite.

    Raises:
        ValueError: a strength outside [0, 1].
    """

    def __init__(self, strength: float = 0.5, background: Background | None = None) -> None:
        self.strength = _strength("Textured", strength)
        self.background = TextureBackground() if background is None else background

    def behind(self, generator: np.random.Generator, canvas: Canvas) -> Canvas:
        pattern = self.background.pattern(generator, 1, canvas.shape[-1])[0]
        found: Canvas = canvas + np.float32(self.strength) * (np.float32(127.5) * (1 + pattern) - canvas)
        return found


class Lit(Appearance):
    """Light from one side of the frame, from a direction of the episode's own: brightness falls in a straight ramp to
    1 - strength on the far side.

    Raises:
        ValueError: a strength outside [0, 1].
    """

    def __init__(self, strength: float = 0.7) -> None:
        self.strength = _strength("Lit", strength)

    def light(self, generator: np.random.Generator, size: int) -> Canvas:
        angle = generator.uniform(0, 2 * np.pi)
        across, down = np.cos(angle), np.sin(angle)
        centres = 2 * (np.arange(size) + 0.5) / size - 1
        ramp = (across * centres + down * centres[:, None]) / (abs(across) + abs(down))  # [-1, 1], corner to corner
        shade: Canvas = (1 - self.strength * (1 + ramp) / 2).astype(np.float32)
        return shade


class Distracted(Appearance):
    """Small sprites behind the objects that nothing depends on and no mask names; they may lie under the objects.

    Args:
        strength: of their colours; at 1 those of objects.
        count: how many.
        scale: as objects' scales; theirs are 0.15 and 0.22.

    Raises:
        ValueError: a strength outside [0, 1], a negative count, or a scale outside (0, 0.5).
    """

    def __init__(self, strength: float = 1.0, count: int = 8, scale: float = 0.05) -> None:
        if count < 0 or not 0 < scale < 0.5:
            raise ValueError(f"Distracted: count must be at least 0 and scale in (0, 0.5), got {count} and {scale}.")
        self.strength, self.count, self.scale = _strength("Distracted", strength), count, scale

    def behind(self, generator: np.random.Generator, canvas: Canvas) -> Canvas:
        place = generator.random((1, self.count, 2))
        shape = generator.integers(len(SHAPES[:4]), size=(1, self.count))
        color = generator.integers(len(COLORS[:4]), size=(1, self.count))
        every = np.ones((1, self.count), dtype=bool)
        renderer = SpriteRenderer(canvas.shape[-1])
        drawn, _ = renderer.render(place, shape, color, self.scale * every, every, canvas[None])
        found: Canvas = canvas + np.float32(self.strength) * (drawn[0].astype(np.float32) - canvas)
        return found


class Scenery:
    """The shifts of a world's environments, drawn when their frames are first looked at.

    Every shift draws from a generator of its own per episode: one more does not change what the others do.
    """

    def __init__(self, appearances: list[Appearance], num_envs: int, size: int) -> None:
        self.appearances = appearances
        self.seeds = np.zeros(num_envs, dtype=np.int64)
        self._drawn = np.zeros(num_envs, dtype=bool)
        self._behind = np.zeros((num_envs, 3, size, size), dtype=np.float32)
        self._light = np.ones((num_envs, 1, size, size), dtype=np.float32)

    def start(self, indices: NDArray[np.int64], seeds: NDArray[np.int64]) -> None:
        """New episodes."""
        self.seeds[indices] = seeds
        self._drawn[indices] = False

    def of(self, indices: NDArray[np.int64]) -> tuple[Canvas, Canvas]:
        """(n 3 S S) what lies behind, in 0..255; (n 1 S S) light, in [0, 1]."""
        for index in indices[~self._drawn[indices]]:
            self._draw(int(index))
        return self._behind[indices], self._light[indices]

    def _draw(self, index: int) -> None:
        self._behind[index], self._light[index] = 0.0, 1.0
        size = self._behind.shape[-1]
        met: Counter[str] = Counter()
        for appearance in self.appearances:
            name = type(appearance).__name__
            generator = np.random.default_rng([int(self.seeds[index]) % 2**64, met[name], *name.encode()])
            met[name] += 1
            self._behind[index] = appearance.behind(generator, self._behind[index])
            light = appearance.light(generator, size)
            if light is not None:
                self._light[index] *= light
        self._drawn[index] = True


def _strength(name: str, strength: float) -> float:
    if not 0 <= strength <= 1:
        raise ValueError(f"{name}: strength must be in [0, 1], got {strength}.")
    return float(strength)

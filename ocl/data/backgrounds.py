"""What lies behind the objects: patterns around a mean colour that a scene draws one of, each its own random law."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Pattern = NDArray[np.float32]


class Background(ABC):
    """A law of patterns: how far every pixel and channel lies above or below the mean colour of its scene."""

    @abstractmethod
    def pattern(self, generator: np.random.Generator, count: int, size: int) -> Pattern:
        """Draw n = `count` patterns (n 3 size size) float32 in [-1, 1], with no other randomness than `generator`."""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({arguments})"


class PlainBackground(Background):
    """One colour: the easy control."""

    def pattern(self, generator: np.random.Generator, count: int, size: int) -> Pattern:
        return np.zeros((count, 3, size, size), dtype=np.float32)


class GradientBackground(Background):
    """In every channel a straight ramp over the whole range, from corner to corner in a direction of its own."""

    def pattern(self, generator: np.random.Generator, count: int, size: int) -> Pattern:
        across, down = _directions(generator, (count, 3))
        x = 2 * _centres(size) - 1
        y = x[:, None]
        ramp: Pattern = (across * x + down * y) / (np.abs(across) + np.abs(down))
        return ramp


class TextureBackground(Background):
    """Stripes in half of the scenes, checks in the others, at any angle; two colours with short ramps in between.

    Args:
        cycles: the fewest and the most periods along a side of the image; uniform in between.

    Raises:
        ValueError: not 0 < fewest <= most.
    """

    def __init__(self, cycles: tuple[float, float] = (2.0, 6.0)) -> None:
        fewest, most = cycles
        if not 0 < fewest <= most:
            raise ValueError(f"TextureBackground: cycles must be 0 < fewest <= most, got {tuple(cycles)}.")
        self.cycles = (float(fewest), float(most))

    def pattern(self, generator: np.random.Generator, count: int, size: int) -> Pattern:
        across, down = _directions(generator, (count,))
        cycles = generator.uniform(*self.cycles, (count, 1, 1)).astype(np.float32)
        starts = generator.random((2, count, 1, 1), dtype=np.float32)
        checked = generator.random((count, 1, 1)) < 0.5
        x = _centres(size)
        y = x[:, None]
        along = cycles * (across * x + down * y) + starts[0]
        aside = cycles * (down * x - across * y) + starts[1]
        wave = np.sin(2 * np.pi * along) * np.where(checked, np.sin(2 * np.pi * aside), np.float32(1))  # (n H W)
        tint = generator.uniform(-1, 1, (count, 3)).astype(np.float32)
        tint /= np.abs(tint).max(axis=1, keepdims=True)
        pattern: Pattern = tint[..., None, None] * np.clip(2 * wave, -1, 1)[:, None]
        return pattern


class NoiseBackground(Background):
    """Coloured clouds and grain: in every channel random signs on coarse grids, interpolated, plus noise per pixel.

    Args:
        cells: the sides of the grids, in cells; they count alike.
        grain: the share of the pixels' own, uniform values.

    Raises:
        ValueError: no grid, one without cells, or a grain outside [0, 1].
    """

    def __init__(self, cells: Sequence[int] = (3, 8), grain: float = 0.3) -> None:
        if not cells or min(cells) < 1:
            raise ValueError(f"NoiseBackground: cells must be numbers of at least 1, got {list(cells)}.")
        if not 0 <= grain <= 1:
            raise ValueError(f"NoiseBackground: grain must be in [0, 1], got {grain}.")
        self.cells, self.grain = tuple(cells), grain

    def pattern(self, generator: np.random.Generator, count: int, size: int) -> Pattern:
        share = np.float32((1 - self.grain) / len(self.cells))
        noise = np.zeros((count, 3, size, size), dtype=np.float32)
        for cells in self.cells:
            weights = _interpolation(cells, size)  # (size, cells + 1)
            signs = 2 * generator.integers(2, size=(count, 3, cells + 1, cells + 1)).astype(np.float32) - 1
            noise += share * (weights @ signs @ weights.T)
        noise += np.float32(self.grain) * (2 * generator.random(noise.shape, dtype=np.float32) - 1)
        return noise


def _centres(size: int) -> NDArray[np.float32]:
    """(size) middles of the pixels, the image spanning [0, 1]."""
    return (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)


def _directions(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[Pattern, Pattern]:
    """Cosines and sines (*shape 1 1) of uniform angles."""
    angle = generator.uniform(0, 2 * np.pi, (*shape, 1, 1)).astype(np.float32)
    return np.cos(angle), np.sin(angle)


def _interpolation(cells: int, size: int) -> Pattern:
    """(size, cells + 1) weights that carry values at the corners of the cells linearly to the pixels."""
    distance = np.abs(_centres(size)[:, None] * np.float32(cells) - np.arange(cells + 1, dtype=np.float32))
    weights: Pattern = np.maximum(1 - distance, 0)
    return weights

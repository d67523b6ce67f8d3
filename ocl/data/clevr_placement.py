"""Where CLEVR puts its objects (Johnson et al., CVPR 2017): the rules of its public scene generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZES = ("large", "small")
RADII = (0.7, 0.35)
"""Of spheres and cylinders; cubes stand with their vertical edges on that circle."""

EXTENT = 3.0
"""Centres are uniform in a square of twice this side."""
GAP = 0.25
"""Least distance between the circles of two objects."""
SEPARATION = 0.4
"""Least distance of two centres both from left to right and from front to back."""
RIGHT, BEHIND = (0.6563112735748291, 0.7544902563095093), (-0.754490315914154, 0.6563112735748291)
"""On the ground, as in every published scene: those of the camera before its jitter."""

TRIES = 50
"""Positions drawn for an object before its scene is begun again."""
RESTARTS = 10_000


def place(generator: np.random.Generator, number: NDArray[np.int64], most: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw sizes and positions, object by object, until all of a scene's objects stand.

    Args:
        number: (n) objects in each scene, at most `most` = M.

    Returns:
        size (n M), index into `SIZES`, and position (n M 2); columns past the number of objects hold arbitrary values.

    Raises:
        ValueError: scenes were begun again too often; about 14 objects are the most that the rules leave room for.
    """
    size = np.empty((len(number), most), dtype=np.int64)
    position = np.empty((len(number), most, 2))
    waiting = np.arange(len(number))
    for _ in range(RESTARTS):
        size[waiting] = generator.integers(0, len(SIZES), size=(len(waiting), most))
        position[waiting], stands = _attempt(generator, np.array(RADII)[size[waiting]], number[waiting])
        waiting = waiting[~stands]
        if not len(waiting):
            return size, position
    raise ValueError(f"CLEVR-like scenes: found no room for {number[waiting[0]]} objects; ask for at most 10.")


def _attempt(
    generator: np.random.Generator, radius: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n M) radii -> (n M 2) positions and (n) whether every object found one within its tries."""
    count, most = radius.shape
    position, stands = np.empty((count, most, 2)), np.ones(count, dtype=bool)
    axes = np.array([RIGHT, BEHIND]).T
    for column in range(number.max(initial=0)):
        drawn = generator.uniform(-EXTENT, EXTENT, size=(count, TRIES, 2))
        offset = drawn[:, :, None] - position[:, None, :column]  # (n tries earlier 2)
        least = (radius[:, column, None] + radius[:, :column] + GAP)[:, None]
        free = (np.square(offset).sum(-1) >= least**2) & (np.abs(offset @ axes) >= SEPARATION).all(-1)
        fits = free.all(-1)
        position[:, column] = drawn[np.arange(count), fits.argmax(1)]
        stands &= fits.any(1) | (column >= number)
    return position, stands

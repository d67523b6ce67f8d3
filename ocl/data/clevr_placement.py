"""Where CLEVR puts its objects (Johnson et al., CVPR 2017): the rules of its public scene generator."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZES = ("large", "small")
RADII = np.array([0.7, 0.35])
"""Of spheres and cylinders, and of the circle on which the corners of a cube stand."""

EXTENT = 3.0
"""Centres are uniform in a square of twice this side."""
GAP = 0.25
"""Least distance between the circles of two objects."""
SEPARATION = 0.4
"""Least distance of two centres, both from left to right and from front to back."""
RIGHT = (0.6563112735748291, 0.7544902563095093)
BEHIND = (-0.754490315914154, 0.6563112735748291)
"""On the ground and the same in every published scene: those of the camera before its jitter."""

TRIES = 50
"""Positions drawn for an object before its scene begins again."""
RESTARTS = 1000
AT_ONCE = 24
"""Scenes drawn together; when fewer are left, several attempts of each, of which the first good one counts."""


def place(
    generator: np.random.Generator, number: NDArray[np.int64], most: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Draw sizes and positions, object by object, anew until all objects of a scene have found a place.

    Args:
        number: (n) objects in each scene.
        most: M, at least as large.

    Returns:
        size (n M), index into `SIZES`, and position (n M 2); columns past a scene's number hold arbitrary values.

    Raises:
        ValueError: too many objects; more than ten rarely find a place.
    """
    size = np.zeros((len(number), most), dtype=np.int64)
    position = np.zeros((*size.shape, 2))
    waiting = np.arange(len(number))
    for _ in range(RESTARTS):
        rows = np.repeat(waiting, max(1, AT_ONCE // len(waiting)))
        sizes = generator.integers(0, len(SIZES), size=(len(rows), most))
        positions, good = _attempt(generator, RADII[sizes], number[rows])
        done, first = np.unique(rows[good], return_index=True)
        size[done], position[done] = sizes[good][first], positions[good][first]
        waiting = np.setdiff1d(waiting, done)
        if not len(waiting):
            return size, position
    raise ValueError(f"CLEVR-like scenes: {number[waiting].min()} objects find no place together; ask for at most 10.")


def _attempt(
    generator: np.random.Generator, radius: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n M) radii -> (n M 2) positions and (n) whether every object found one within its tries."""
    count, most = radius.shape
    position, good = np.zeros((count, most, 2)), np.ones(count, dtype=bool)
    across, along = np.empty((2, count, most))  # from left to right, from front to back
    for column in range(number.max()):
        drawn = generator.uniform(-EXTENT, EXTENT, size=(count, TRIES, 2))
        right = np.square((drawn @ RIGHT)[..., None] - across[:, None, :column])  # (n tries earlier)
        behind = np.square((drawn @ BEHIND)[..., None] - along[:, None, :column])
        least = np.square(radius[:, column, None] + radius[:, :column] + GAP)[:, None]
        clear = (right + behind >= least) & (np.minimum(right, behind) >= SEPARATION**2)
        fits = np.asarray(clear.all(axis=-1))
        position[:, column] = drawn[np.arange(count), fits.argmax(1)]
        across[:, column], along[:, column] = position[:, column] @ RIGHT, position[:, column] @ BEHIND
        good &= fits.any(axis=1) | (column >= number)
    return position, good

"""Random sprite scenes: what encoders are trained on before agents use them in the sprite worlds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ocl.data.scenes import Scenes
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer, flip_y, seen

MOST_TRIES = 1000


class SpriteScenes(Scenes):
    """Sprites of random shape, colour, scale and place on black; later columns may hide parts of earlier ones.

    The defaults are the pre-training scenes of Yoon et al. (ICML 2023): five objects, four colours, four shapes, two
    scales, centres at least 0.15 apart. Unlike theirs, objects keep no distance from the walls and from the middle of
    the frame, because the agents of the sprite worlds start in the middle and walk along the walls.

    Attributes of an item, M = the most objects: "position" (M 2) float32 as (x, y down), "shape" and "color" (M)
    int64 (`categories` names them, the same numbers whatever subset is drawn), "scale" (M) float32, "visible" (M)
    bool. Columns past the number of objects in a scene are not visible; neither are fully hidden objects.

    Args:
        size, seed, block: see `Scenes`.
        image_size: pixels along each side.
        num_objects: the least and the most objects in a scene, each number equally likely.
        shapes, colors, scales: what is drawn from, uniformly and independently.
        separation: least distance between two centres, in units of the image side; 0 allows full occlusion.

    Raises:
        ValueError: an unknown name, an empty list, a range the wrong way round, or objects that do not fit.
    """

    categories: ClassVar[dict[str, tuple[str, ...]]] = {"shape": SHAPES, "color": COLORS}

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 32,
        *,
        image_size: int = 64,
        num_objects: tuple[int, int] = (5, 5),
        shapes: Sequence[str] = SHAPES[:4],
        colors: Sequence[str] = COLORS[:4],
        scales: Sequence[float] = (0.15, 0.22),
        separation: float = 0.15,
    ) -> None:
        super().__init__(size, seed, block)
        name = type(self).__name__
        least, most = num_objects
        if not 1 <= least <= most <= 255:
            raise ValueError(f"{name}: num_objects must be 1 <= least <= most <= 255, got {tuple(num_objects)}.")
        if not scales or not all(0 < scale < 1 for scale in scales):
            raise ValueError(f"{name}: scales must be numbers between 0 and 1, got {list(scales)}.")
        if not 0 <= separation < 1:
            raise ValueError(f"{name}: separation must be at least 0 and below 1, got {separation}.")
        self.image_size, self.max_objects, self.least_objects = (image_size, image_size), most, least
        self.shapes = indices_of(f"{name}: shapes", shapes, SHAPES)
        self.colors = indices_of(f"{name}: colors", colors, COLORS)
        self.scales = np.array(scales, dtype=np.float64)
        self.separation = separation
        self.renderer = SpriteRenderer(image_size)

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        many = (count, self.max_objects)
        present = np.arange(self.max_objects) < generator.integers(self.least_objects, self.max_objects + 1, (count, 1))
        shape, color = self._shapes(generator, many), generator.choice(self.colors, many)
        scale = generator.choice(self.scales, many)
        position = self._place(generator, scale)
        images, segmentation = self.renderer.render(position, shape, color, scale, present)
        return {
            "images": images,
            "segmentation": segmentation,
            "visible": seen(segmentation, self.max_objects),
            "position": flip_y(position).astype(np.float32),
            "shape": shape,
            "color": color,
            "scale": scale.astype(np.float32),
        }

    def _shapes(self, generator: np.random.Generator, many: tuple[int, int]) -> NDArray[np.int64]:
        """(n M) shapes."""
        return generator.choice(self.shapes, many)

    def _place(self, generator: np.random.Generator, scale: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n M) scales -> (n M 2) centres, uniform where a square of that scale stays inside the frame and no earlier
        column is nearer than the separation."""
        position = np.empty((*scale.shape, 2))
        for m in range(scale.shape[1]):
            waiting = np.arange(len(scale))
            for _ in range(MOST_TRIES):
                margin = scale[waiting, m, None] / 2
                drawn = margin + (1 - 2 * margin) * generator.random((len(waiting), 2))
                near = np.linalg.norm(position[waiting, :m] - drawn[:, None], axis=-1) < self.separation
                clear = ~near.any(axis=1)
                position[waiting[clear], m] = drawn[clear]
                waiting = waiting[~clear]
                if not len(waiting):
                    break
            else:
                raise ValueError(
                    f"{type(self).__name__}: no room for object {m + 1} of {scale.shape[1]} at a separation of "
                    f"{self.separation}; ask for fewer objects or a smaller separation."
                )
        return position


def indices_of(argument: str, names: Sequence[str], known: tuple[str, ...]) -> NDArray[np.int64]:
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{argument} must be among {', '.join(known)}; got {list(names)}.")
    return np.array([known.index(name) for name in names], dtype=np.int64)

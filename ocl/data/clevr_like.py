"""CLEVR-like scenes: cubes, spheres and cylinders on a grey ground, ray-cast in torch without Blender or a download."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.data import clevr_stage as stage
from ocl.data.clevr_placement import RADII, SIZES, place
from ocl.data.ray_caster import KINDS, REACH, Hits, Solids, cast
from ocl.data.ray_shading import Scene, radiance
from ocl.data.scenes import Scenes
from ocl.data.sprites import seen

COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
RGB = np.array(
    [
        *([87, 87, 87], [173, 35, 35], [42, 75, 215], [29, 105, 20]),
        *([129, 74, 25], [129, 38, 192], [41, 208, 208], [255, 238, 51]),
    ]
)
"""(8 3) in 0..255. Like Blender, the renderer takes these as linear; the image is brighter by `GAMMA`."""
MATERIALS = ("rubber", "metal")
GAMMA = 2.2

ATTEMPTS = 1000
AT_ONCE = 8
"""Scenes drawn together; when fewer are left, several attempts of each, of which the first good one counts."""
RAYS_AT_ONCE, RAYS_AT_ONCE_ELSEWHERE = 2**17, 2**22
"""What fits into the cache of a CPU, and comfortably into the memory of another device."""

Arrays = dict[str, NDArray[Any]]


class ClevrLikeScenes(Scenes):
    """Three to ten cubes, spheres and cylinders, matt or of metal, with shadows and occlusion, seen from above.

    CLEVR-like, not CLEVR (Johnson et al., CVPR 2017). Numbers, attributes, places, camera and jitters are those of its
    public generator, and the image is the usual central crop of it. What differs from Blender's pictures:

    - Light comes from four lamps and no other surface, apart from what one metal mirrors. Shadows are softened by a
      rule, not sampled; matt surfaces are Lambert's, highlights Phong's; there are no textures; the ground is one grey.
    - Edges are rounded in the shading only, and pixels are not smoothed: the masks are exact.
    - A cube stands on the ground with its corners on the circle of its size, so its side is 2 r / sqrt(2). The
      published generator meant this, but the name that it compares with is not in its list of shapes.
    - Every object shows `min_pixels` inside the crop. In CLEVR they count before it, and the crop cuts some away.

    Attributes: "position" (n M 2), where the centre appears as (x, y) in [0, 1], a little outside for an object that
    the border cuts; "position_3d" (n M 3), the centre on the ground plane and its height; "shape", "color", "material"
    and "size" (n M), named in `categories`; "angle" (n M), radians about the vertical, which only shows on cubes.
    Columns beyond the scene's number of objects are invisible and zero.

    Args:
        size, seed, block: see `Scenes`.
        image_size: pixels along each side.
        num_objects: the least and the most objects in a scene, each number equally likely; (3, 6) is CLEVR6-like.
        min_pixels: a scene in which an object shows fewer is drawn anew. Counts pixels of a 320 x 240 image, whatever
            the size rendered; 0 lets objects be hidden.
        device: where rays are cast, such as "cuda". On one kind of device items depend on (seed, index) alone; another
            may round a pixel differently.

    Raises:
        ValueError: a number out of range, or no scene that fulfils all of this was found.
    """

    categories: ClassVar[dict[str, tuple[str, ...]]] = {
        "shape": KINDS,
        "color": COLORS,
        "material": MATERIALS,
        "size": SIZES,
    }

    def __init__(
        self,
        size: int,
        seed: int = 0,
        block: int = 32,
        *,
        image_size: int = 128,
        num_objects: tuple[int, int] = (3, 10),
        min_pixels: float = 200.0,
        device: str = "cpu",
    ) -> None:
        super().__init__(size, seed, block)
        least, most = num_objects
        if not 1 <= least <= most <= 10:  # eleven find a place together once in hundreds of attempts
            raise ValueError(
                f"ClevrLikeScenes: num_objects must be 1 <= least <= most <= 10, got {tuple(num_objects)}."
            )
        if not 1 <= image_size <= 2**12:
            raise ValueError(f"ClevrLikeScenes: image_size must be in 1..4096 pixels, got {image_size}.")
        if not min_pixels >= 0:
            raise ValueError(f"ClevrLikeScenes: min_pixels must be at least 0, got {min_pixels}.")
        self.image_size, self.max_objects, self.least_objects = (image_size, image_size), most, least
        self.min_pixels, self.device = min_pixels, device
        self._least_pixels = min_pixels * (image_size / stage.CROP) ** 2

    def generate(self, generator: np.random.Generator, count: int) -> Arrays:
        number = generator.integers(self.least_objects, self.max_objects + 1, size=count)
        eye, lamps = stage.draw_eyes(generator, count), stage.draw_lamps(generator, count)
        objects, hits = self._arrange(generator, number, eye)
        for name, names in (("color", COLORS), ("material", MATERIALS)):
            objects[name] = generator.integers(0, len(names), size=objects["shape"].shape)
        images = self._render(number, objects, eye, lamps, hits)
        segmentation = hits.label.view(count, *self.image_size).cpu().numpy()
        objects["position"] = stage.project(eye, objects["position_3d"]).astype(np.float32)
        for values in objects.values():
            values[np.arange(self.max_objects) >= number[:, None]] = 0
        visible = seen(segmentation, self.max_objects)
        return {"images": images, "segmentation": segmentation, "visible": visible, **objects}

    def _arrange(
        self, generator: np.random.Generator, number: NDArray[np.int64], eye: stage.Floats
    ) -> tuple[Arrays, Hits]:
        """Objects (n M ...), drawn anew until each shows enough pixels, and what the camera's rays meet (n P)."""
        count, rays = len(number), self.image_size[0] ** 2
        objects: Arrays = {}
        label = torch.empty(count, rays, dtype=torch.uint8, device=self.device)
        depth = torch.empty(count, rays, device=self.device)
        waiting = np.arange(count)
        for _ in range(ATTEMPTS):
            rows = np.repeat(waiting, max(1, AT_ONCE // len(waiting)))
            drawn = self._draw(generator, number[rows])
            hopeful = self._hopeful(number[rows], drawn, eye[rows])
            rows, drawn = rows[hopeful], {name: values[hopeful] for name, values in drawn.items()}
            labels, depths, good = self._cast(number[rows], drawn, eye[rows])
            done, first = np.unique(rows[good], return_index=True)
            first = np.flatnonzero(good)[first]
            for name, values in drawn.items():
                kept = objects.setdefault(name, np.empty((count, *values.shape[1:]), values.dtype))
                kept[done] = values[first]
            label[done], depth[done] = labels[first], depths[first]
            waiting = np.setdiff1d(waiting, done)
            if not len(waiting):
                return objects, Hits(label, depth)
        raise ValueError(
            f"ClevrLikeScenes: found no scene in which each of {number[waiting].min()} objects shows "
            f"{self.min_pixels:g} pixels of 320 x 240; ask for fewer objects or fewer pixels."
        )

    def _draw(self, generator: np.random.Generator, number: NDArray[np.int64]) -> Arrays:
        """(n M ...) objects where the rules of placement allow them."""
        size, position = place(generator, number, self.max_objects)
        shape = generator.integers(0, len(KINDS), size=size.shape)
        angle = generator.uniform(0, 2 * np.pi, size=size.shape)
        half = RADII[size] / np.where(shape == KINDS.index("cube"), 2**0.5, 1)
        center = np.concatenate([position, half[..., None]], axis=-1)
        floats = {"position_3d": center, "angle": angle}
        return {"size": size, "shape": shape, **{name: values.astype(np.float32) for name, values in floats.items()}}

    def _hopeful(self, number: NDArray[np.int64], objects: Arrays, eye: stage.Floats) -> NDArray[np.bool_]:
        """(n) whether every object would show enough pixels if it filled the box around it: rays cost more."""
        center, size = objects["position_3d"], self.image_size[0]
        box = stage.boxes(eye, center, center[..., 2] * np.array(REACH)[objects["shape"]]).clip(0, 1)
        pixels = ((box[..., 2:] - box[..., :2]) * size + 1).prod(axis=-1)
        absent = np.arange(self.max_objects) >= number[:, None]
        return np.asarray((absent | (pixels >= self._least_pixels)).all(axis=1))

    def _cast(
        self, number: NDArray[np.int64], objects: Arrays, eye: stage.Floats
    ) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
        """Label and depth (n P) of the camera's rays, and (n) whether every object shows enough pixels."""
        label = torch.empty(len(number), self.image_size[0] ** 2, dtype=torch.uint8, device=self.device)
        depth = torch.empty(label.shape, device=self.device)
        pixels = np.empty((len(number), self.max_objects + 1), dtype=np.int64)
        for rows in self._chunks(number):
            hits = cast(self._solids(number, objects, rows), *stage.rays(eye[rows], self.image_size[0], self.device))
            label[rows], depth[rows] = hits.label.to(torch.uint8), hits.depth
            first = torch.arange(len(rows), device=self.device)[:, None] * pixels.shape[1]
            counts = torch.bincount((hits.label + first).view(-1), minlength=len(rows) * pixels.shape[1])
            pixels[rows] = counts.view(len(rows), -1).cpu().numpy()
        absent = np.arange(self.max_objects) >= number[:, None]
        return label, depth, np.asarray(((pixels[:, 1:] >= self._least_pixels) | absent).all(axis=1))

    def _render(
        self, number: NDArray[np.int64], objects: Arrays, eye: stage.Floats, lamps: stage.Floats, hits: Hits
    ) -> NDArray[np.uint8]:
        """(n 3 H W) images of objects (n M ...) whose hits are known."""
        images = np.empty((len(number), 3, *self.image_size), dtype=np.uint8)
        for rows in self._chunks(number):
            most = number[rows].max()
            color = torch.as_tensor(RGB[objects["color"][rows, :most]] / 255, dtype=torch.float32, device=self.device)
            metal = torch.as_tensor(objects["material"][rows, :most] == MATERIALS.index("metal"), device=self.device)
            scene = Scene(self._solids(number, objects, rows), color, metal, stage.lamps(lamps[rows], self.device))
            origin, direction = stage.rays(eye[rows], self.image_size[0], self.device)
            light = radiance(scene, origin, direction, Hits(hits.label[rows].long(), hits.depth[rows]))
            light = light.clamp_(0, 1).pow_(1 / GAMMA).mul_(255).round_().to(torch.uint8)
            images[rows] = light.view(len(rows), 3, *self.image_size).cpu().numpy()
        return images

    def _solids(self, number: NDArray[np.int64], objects: Arrays, rows: NDArray[np.int64]) -> Solids:
        """The solids of some scenes, in as many columns as the fullest of them needs."""
        most = number[rows].max()
        center = objects["position_3d"][rows, :most]
        present = np.arange(most) < number[rows, None]
        arrays = (objects["shape"][rows, :most], center, center[..., 2], objects["angle"][rows, :most], present)
        return Solids(*(torch.as_tensor(np.ascontiguousarray(values), device=self.device) for values in arrays))

    def _chunks(self, number: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rows to take together: as many as fit, and with similar numbers of objects."""
        rays = RAYS_AT_ONCE if self.device == "cpu" else RAYS_AT_ONCE_ELSEWHERE
        together = max(1, rays // self.image_size[0] ** 2)
        order = np.argsort(number, kind="stable")
        return [order[first : first + together] for first in range(0, len(order), together)]

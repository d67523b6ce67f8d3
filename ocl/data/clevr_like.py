"""CLEVR-like scenes: cubes, spheres and cylinders on a grey ground, ray-cast in torch without Blender or a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.data.clevr_placement import RADII, SIZES, place
from ocl.data.ray_caster import KINDS, Hits, Solids, cast
from ocl.data.ray_shading import Scene, radiance
from ocl.data.scenes import Scenes

COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
RGB = np.array(
    [(87, 87, 87), (173, 35, 35), (42, 75, 215), (29, 105, 20), (129, 74, 25), (129, 38, 192), (41, 208, 208)]
    + [(255, 238, 51)]
)
MATERIALS = ("rubber", "metal")

EYE, EYE_JITTER = np.array([7.48113, -6.50764, 5.34367]), 0.5
"""The camera looks at the origin from here, give or take the jitter in each coordinate."""
FOCAL, MIDDLE = 320 * 35 / 32 / 192, (0.5, (120 - 29) / 192)
"""In units of the image's side: a lens of 35 mm before a sensor of 32 mm draws 320 x 240 pixels, of which the usual crop
keeps rows 29..220 and columns 64..255. `MIDDLE` is where the camera looks."""
SIDE = 192
"""Side of that crop; the least number of visible pixels counts in its pixels."""

LAMPS = np.array([(11.6608, -6.62799, 25.8232), (6.44671, -2.90517, 4.2584), (-4.67112, -4.0136, 3.01122), (-1.1685, 2.64602, 5.81574)])
LAMP_JITTER = np.array([0.0, 1.0, 1.0, 1.0])[:, None]
LAMP_COLORS = np.array([(1, 1, 1), (1, 0.93, 0.82), (0.76, 0.82, 1), (1, 1, 1)])
LAMP_POWERS = np.array([0.45 * 870, 100 / np.pi, 30 / np.pi, 50 / np.pi])[:, None]
LAMP_RADII = (2.9, 0.25, 0.25, 0.5)
EXPOSURE = 1.4

GAMMA = 2.2
ATTEMPTS = 1000
PAIRS_AT_ONCE = {"cpu": 2**20}
"""Pairs of a ray and a solid that are looked at together: what stays in a cache."""


class ClevrLikeScenes(Scenes):
    """todo"""

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
        if not 1 <= least <= most <= 255:
            raise ValueError(f"ClevrLikeScenes: num_objects must be 1 <= least <= most <= 255, got {tuple(num_objects)}.")
        self.image_size, self.max_objects, self.least_objects = (image_size, image_size), most, least
        self.min_pixels = min_pixels
        self.device = device

    def generate(self, generator: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
        number = generator.integers(self.least_objects, self.max_objects + 1, size=count)
        number = np.sort(number)
        eye = EYE + EYE_JITTER * generator.uniform(-1, 1, size=(count, 3))
        lamps = LAMPS + LAMP_JITTER * generator.uniform(-1, 1, size=(count, *LAMPS.shape))
        size, shape, color, material = (np.zeros((count, self.max_objects), dtype=np.int64) for _ in range(4))
        position, angle = np.zeros((count, self.max_objects, 3)), np.zeros((count, self.max_objects))
        present = np.arange(self.max_objects) < number[:, None]
        label = torch.empty(count, self.image_size[0] ** 2, dtype=torch.long, device=self.device)
        depth = torch.empty(label.shape, device=self.device)
        waiting = np.arange(count)
        rounds = 0
        while len(waiting):
            rows = np.repeat(waiting, max(1, 8 // len(waiting)))
            many = (len(rows), self.max_objects)
            s, xy = place(generator, number[rows], self.max_objects)
            k = generator.integers(0, len(KINDS), size=many)
            a = generator.uniform(0, 2 * np.pi, size=many)
            half = np.array(RADII)[s] / np.where(k == 0, 2**0.5, 1)
            xyz = np.concatenate([xy, half[..., None]], -1)
            solids = Solids(*(torch.as_tensor(v, device=self.device) for v in (k, xyz.astype(np.float32), half.astype(np.float32), a.astype(np.float32), present[rows])))
            for i in range(0, len(rows), 8):
                part = slice(i, i + 8)
                m = int(number[rows[part]].max())
                sub = Solids(*(v[part, :m] for v in vars(solids).values()))
                o, d = self.rays(eye[rows[part]])
                hits = cast(sub, o, d)
                counts = torch.stack([(hits.label == j + 1).sum(1) for j in range(m)], 1).cpu().numpy()
                ok = ((counts >= self.min_pixels * (self.image_size[0] / SIDE) ** 2) | ~present[rows[part], :m]).all(1)
                for j in range(len(ok)):
                    r = rows[i + j]
                    if ok[j] and r in waiting:
                        size[r], shape[r], angle[r], position[r] = s[i + j], k[i + j], a[i + j], xyz[i + j]
                        label[r], depth[r] = hits.label[j], hits.depth[j]
                        waiting = waiting[waiting != r]
            rounds += 1
        color = generator.integers(0, 8, size=color.shape)
        material = generator.integers(0, 2, size=color.shape)
        images = np.empty((count, 3, *self.image_size), np.uint8)
        half = position[..., 2]
        f = lambda v: torch.as_tensor(v.astype(np.float32), device=self.device)
        for i in range(0, count, 6):
            p = slice(i, i + 6)
            m = int(number[p].max())
            scene = Scene(
                Solids(torch.as_tensor(shape[p, :m]), f(position[p, :m]), f(half[p, :m]), f(angle[p, :m]), torch.as_tensor(present[p, :m])),
                f(RGB[color[p, :m]] / 255), torch.as_tensor(material[p, :m] == 1), f(lamps[p]), f(EXPOSURE * LAMP_POWERS * LAMP_COLORS), torch.tensor(LAMP_RADII))
            o, d = self.rays(eye[p])
            light = radiance(scene, o, d, Hits(label[p], depth[p]))
            images[p] = (255 * light.clamp(0, 1) ** (1 / GAMMA)).round().to(torch.uint8).view(-1, 3, *self.image_size).cpu().numpy()
        return {"images": images, "segmentation": label.view(count, *self.image_size).to(torch.uint8).cpu().numpy(), "visible": present, "shape": shape, "color": color}

    def rays(self, eye):
        eye = torch.as_tensor(eye.astype(np.float32), device=self.device)
        forward = -eye / eye.norm(dim=1, keepdim=True)
        right = torch.linalg.cross(forward, forward.new_tensor((0.0, 0.0, 1.0)).expand_as(forward))
        right = right / right.norm(dim=1, keepdim=True)
        up = torch.linalg.cross(right, forward)
        place = (torch.arange(self.image_size[0], device=eye.device) + 0.5) / self.image_size[0]
        y, x = torch.meshgrid((MIDDLE[1] - place) / FOCAL, (place - MIDDLE[0]) / FOCAL, indexing="ij")
        plane = torch.stack([x, y, torch.ones_like(x)]).view(3, -1)
        direction = torch.stack([right, up, forward], 2) @ plane
        return eye[:, :, None], direction / direction.norm(dim=1, keepdim=True)

"""The camera and the lamps of CLEVR's base scene, before and after their jitter.

The camera reproduces the pixel coordinates of published scenes. Positions, colours and watts of the lamps are those of
Kubric's version of the scene (Greff et al., CVPR 2022); exposure and the radii that soften shadows are our own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.data.ray_shading import Lamps

Floats = NDArray[np.float64]

EYE = np.array([7.48113, -6.50764, 5.34367])
"""The camera looks at the origin from here."""
CROP = 192
"""Pixels along each side of the usual crop: rows 29..220 and columns 64..255 of 320 x 240."""
FOCAL = 320 * 35 / 32 / CROP
"""In units of the crop's side: a lens of 35 mm before a sensor of 32 mm draws the 320 pixels."""
MIDDLE = np.array([160 - 64, 120 - 29]) / CROP
"""Where the origin appears in that crop, as (x, y) in [0, 1]."""

LAMPS = np.array(
    [
        (11.6608, -6.62799, 25.8232),  # the sun, here a lamp so far away, which does not jitter
        (6.44671, -2.90517, 4.2584),  # key
        (-4.67112, -4.0136, 3.01122),  # fill
        (-1.1685, 2.64602, 5.81574),  # back
    ]
)
LAMP_COLORS = np.array([(1.0, 1.0, 1.0), (1.0, 0.93, 0.82), (0.76, 0.82, 1.0), (1.0, 1.0, 1.0)])
LAMP_POWERS = np.array([0.45 * np.square(LAMPS[0]).sum(), 100 / np.pi, 30 / np.pi, 50 / np.pi])
LAMP_RADII = (2.0, 0.25, None, 0.5)
"""The fill lamp is too weak for a shadow that one would see."""
EXPOSURE = 1.4

EYE_JITTER, LAMP_JITTER = 0.5, 1.0
"""Each coordinate moves by at most this much, uniformly."""


def draw_eyes(generator: np.random.Generator, count: int) -> Floats:
    """(n 3) camera positions."""
    return EYE + generator.uniform(-EYE_JITTER, EYE_JITTER, size=(count, 3))


def draw_lamps(generator: np.random.Generator, count: int) -> Floats:
    """(n 4 3) lamp positions."""
    moved = generator.uniform(-LAMP_JITTER, LAMP_JITTER, size=(count, len(LAMPS), 3))
    moved[:, 0] = 0
    return LAMPS + moved


def lamps(position: Floats, device: str | torch.device = "cpu") -> Lamps:
    """Lamps at (n 4 3)."""
    power = torch.as_tensor(EXPOSURE * LAMP_POWERS[:, None] * LAMP_COLORS, dtype=torch.float32, device=device)
    return Lamps(torch.as_tensor(position, dtype=torch.float32, device=device), power, LAMP_RADII)


def frames(eye: Floats) -> Floats:
    """(n 3) camera positions -> (n 3 3): the directions to its right, upward and forward, as rows."""
    forward = -eye
    right = np.cross(forward, (0.0, 0.0, 1.0))
    axes = np.stack([right, np.cross(right, forward), forward], axis=1)
    turned: Floats = axes / np.linalg.norm(axes, axis=2, keepdims=True)
    return turned


def project(eye: Floats, point: NDArray[Any]) -> Floats:
    """Where (n M 3) points appear: (n M 2) as (x, y down), in [0, 1] inside the image."""
    right, up, forward = np.moveaxis((point - eye[:, None]) @ frames(eye).swapaxes(1, 2), -1, 0)
    place: Floats = MIDDLE + FOCAL * np.stack([right, -up], -1) / forward[..., None]
    return place


def boxes(eye: Floats, center: NDArray[Any], radius: NDArray[Any]) -> Floats:
    """The boxes (n M 4) around spheres (n M 3), (n M) in the image, as (left, top, right, bottom).

    In the plane of the view axis and one image axis the sphere is a circle, and the box ends at the circle's tangents.
    """
    right, up, forward = np.moveaxis((center - eye[:, None]) @ frames(eye).swapaxes(1, 2), -1, 0)
    across = np.stack([right, -up], -1)
    ahead, radius = forward[..., None], np.asarray(radius, dtype=np.float64)[..., None]
    width = radius * np.sqrt(across**2 + ahead**2 - radius**2)
    ends: Floats = np.concatenate([across * ahead - width, across * ahead + width], -1) / (ahead**2 - radius**2)
    return np.tile(MIDDLE, 2) + FOCAL * ends


def rays(eye: Floats, size: int, device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """The rays through the centres of `size` x `size` pixels: origin (n 3 1) and direction (n 3 P), in raster order."""
    x, y = ((np.arange(size) + 0.5) / size - middle for middle in MIDDLE)
    plane = np.stack(np.broadcast_arrays(x[None, :], -y[:, None], np.array(FOCAL))).reshape(3, -1)
    plane /= np.linalg.norm(plane, axis=0)
    axes, plane_, origin = (
        torch.as_tensor(values, dtype=torch.float32, device=device) for values in (frames(eye), plane, eye)
    )
    return origin[:, :, None], axes.transpose(1, 2) @ plane_

"""What light does to solids on a grey ground: lamps with soft shadows, matt and mirroring materials.

Radiance is linear. Letters and layouts are those of `ocl.data.ray_caster`; L is the number of lamps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.data.ray_caster import TINY, Hits, Solids, cast, meet, normals

GROUND = 0.5
"""Share of the light that the ground scatters, of all colours alike."""
SKY = 0.25
"""Radiance of what lies above the horizon, which only mirrors see."""
AMBIENT = 0.1
"""Irradiance from everywhere, which nothing shadows."""
MIRRORED = 0.75
"""How much of a metal's colour is the mirror image; the rest is scattered as by a matt solid."""
METAL_GLOSS, RUBBER_GLOSS = (0.5, 120.0), (0.06, 10.0)
"""Strength and exponent of the lamps' highlights (Phong)."""
SHARPNESS = 24.0
"""Of the edges, in the shading only (`normals`): outlines and masks are those of exact cubes and cylinders."""
FAR = 1e3
"""Distance at which the ground ends."""
LIFT = 0.01
"""How far off its mirror a mirrored ray starts."""
CONTACT = 1e-3
"""Least width of a half shadow."""


@dataclass
class Lamps:
    """What lights n scenes.

    position: (n L 3).
    power:    (L 3) irradiance at distance one.
    radius:   of each of the L lamps, which softens its shadows; None casts none.
    """

    position: Tensor
    power: Tensor
    radius: tuple[float | None, ...]


@dataclass
class Scene:
    """What stands in n scenes and what lights them.

    color: (n M 3) in [0, 1], the share of the light that each solid scatters or mirrors.
    metal: (n M) bool; the others are matt.
    """

    solids: Solids
    color: Tensor
    metal: Tensor
    lamps: Lamps


def radiance(scene: Scene, origin: Tensor, direction: Tensor, hits: Hits, mirrors: int = 1) -> Tensor:
    """The light (n 3 P) that comes back along each ray.

    Args:
        origin: (n 3 P) or (n 3 1), above the ground.
        direction: (n 3 P) of length one.
        hits: what `cast` found along these rays.
        mirrors: how many metals a ray is followed over; the last one shows no shadows and looks matt.
    """
    down = direction[:, 2:]
    depth = torch.where(down < 0, -origin[:, 2:] / down.clamp_max(-TINY), torch.inf)
    point = origin + direction * depth.clamp_max(FAR)
    facing = [
        light * -way[:, 2].clamp_max(0)
        for light, way in lamplight(scene, point, torch.zeros_like(hits.label), mirrors > 0)
    ]
    light = GROUND / torch.pi * (scene.lamps.power.T @ torch.stack(facing, 1) + AMBIENT)
    light = torch.where(depth < FAR, light, SKY)

    solid = Rays(hits.label > 0)
    if solid.most:
        heading = solid.pack(direction)
        point = solid.pack(origin.expand_as(direction)) + heading * solid.pack(hits.depth[:, None])
        label = solid.pack(hits.label[:, None])[:, 0]
        solid.unpack(_solid_radiance(scene, point, heading, label, mirrors), light)
    return light


def _solid_radiance(scene: Scene, point: Tensor, direction: Tensor, label: Tensor, mirrors: int) -> Tensor:
    """The same for rays that meet the solids named by `label` (n P) at `point` (n 3 P)."""
    normal = normals(scene.solids, label, point, SHARPNESS)
    mirrored = direction - 2 * (direction * normal).sum(1, keepdim=True) * normal
    column = (label - 1).clamp_min(0)
    color = scene.color.transpose(1, 2).gather(2, column[:, None].expand(-1, 3, -1))
    metal = scene.metal.gather(1, column)
    exponent = torch.where(metal, METAL_GLOSS[1], RUBBER_GLOSS[1])
    facing, aligned = [], []
    for light, way in lamplight(scene, point, label, mirrors > 0):
        facing.append(light * -(normal * way).sum(1).clamp_max(0))
        aligned.append(light * (-(mirrored * way).sum(1).clamp_max(0)).pow(exponent))
    power = scene.lamps.power.T
    light = color / torch.pi * (power @ torch.stack(facing, 1) + AMBIENT)
    gloss = torch.where(metal, METAL_GLOSS[0], RUBBER_GLOSS[0])[:, None] * (power @ torch.stack(aligned, 1))
    mirror = Rays(metal & (label > 0))
    if mirrors and mirror.most:
        heading = mirror.pack(mirrored)
        start = mirror.pack(point) + LIFT * heading
        image = radiance(scene, start, heading, cast(scene.solids, start, heading), mirrors - 1)
        image = MIRRORED * mirror.pack(color) * image + (1 - MIRRORED) * mirror.pack(light)
        mirror.unpack(image, light)
    return light + gloss


def lamplight(scene: Scene, point: Tensor, label: Tensor, shadows: bool = True) -> list[tuple[Tensor, Tensor]]:
    """For each lamp, the share of its power (n P) that arrives at points (n 3 P), and its unit direction (n 3 P).

    `label` (n P) names the solids that the points belong to, 0 the ground.
    """
    lights = []
    for lamp, radius in zip(scene.lamps.position.unbind(1), scene.lamps.radius, strict=True):
        way = point - lamp[:, :, None]
        distance = way.square().sum(1).sqrt()
        way /= distance[:, None]
        light = distance.pow(-2)
        if shadows and radius is not None:
            light *= 1 - shadow(scene.solids, lamp[:, :, None], way, distance, label, radius)
        lights.append((light, way))
    return lights


def shadow(solids: Solids, lamp: Tensor, way: Tensor, distance: Tensor, label: Tensor, radius: float) -> Tensor:
    """(n P) in [0, 1]: how much of a lamp is hidden from points of the solids that `label` names.

    One ray for each point. The hidden share is the way of the ray through a solid over the width that the half shadow
    of a lamp of that radius has there: none where the solid touches the point, growing with the distance from it. A
    convex solid hides no point of itself that faces the lamp, so the point's own solid does not count.

    Args:
        lamp: (n 3 1).
        way, distance: (n 3 P) unit vectors and (n P) lengths from the lamp to the points.
        label: (n P).
    """
    pairs = meet(solids, lamp, way)
    end, own = distance.view(-1)[pairs.ray], label.reshape(-1)[pairs.ray]
    hides = ((pairs.enter < pairs.leave) & (pairs.enter < end) & (own != pairs.column + 1)).nonzero().squeeze(1)
    enter, leave, end = pairs.enter[hides], pairs.leave[hides], end[hides]
    width = 2 * radius * (end - leave).clamp_min(0) / leave + CONTACT
    hidden = torch.zeros_like(distance).view(-1)
    hidden.scatter_reduce_(0, pairs.ray[hides], ((leave - enter) / width).clamp_max(1), "amax")
    return hidden.view_as(distance)


class Rays:
    """Some of the rays of every scene, moved together so that scenes stay rows of equal length.

    Args:
        chosen: (n P) bool.
    """

    def __init__(self, chosen: Tensor) -> None:
        self.row, self.ray = chosen.nonzero().unbind(1)
        counts = chosen.sum(1)
        self.most = int(counts.max())
        self.slot = torch.arange(len(self.ray), device=chosen.device) - (counts.cumsum(0) - counts)[self.row]
        self.place = self.row.new_zeros(len(chosen), self.most)
        self.place[self.row, self.slot] = self.ray

    def pack(self, values: Tensor) -> Tensor:
        """(n C P) -> (n C most); scenes with fewer repeat their ray 0."""
        return values.gather(2, self.place[:, None].expand(-1, values.shape[1], -1))

    def unpack(self, packed: Tensor, values: Tensor) -> None:
        """Write (n C most) back to their places in (n C P)."""
        values[self.row, :, self.ray] = packed[self.row, :, self.slot]

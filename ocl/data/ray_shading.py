"""What light does to solids on a grey ground: lamps with soft shadows, matt and mirroring materials.

Radiance is linear. Letters and layouts are those of `ocl.data.ray_caster`; L is the number of lamps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.data.ray_caster import TINY, Hits, Solids, cast, meet, normals

GROUND = 0.5
"""Share of the light that the ground scatters, of all colours alike."""
SKY = 0.25
"""Radiance of what lies above the horizon, which only mirrors see."""
AMBIENT = 0.15
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
class Scene:
    """What stands in n scenes and what lights them.

    color:    (n M 3) in [0, 1], the share of the light that each solid scatters or mirrors.
    metal:    (n M) bool; the others are matt.
    lamps:    (n L 3) positions.
    power:    (L 3) irradiance at distance one.
    softness: (L) radii of the lamps.
    """

    solids: Solids
    color: Tensor
    metal: Tensor
    lamps: Tensor
    power: Tensor
    softness: Tensor


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
    ground = origin + direction * depth.clamp_max(FAR)
    scattered = torch.full_like(direction, AMBIENT)
    for light, toward in _lamplight(scene, ground, torch.zeros_like(hits.label), mirrors > 0):
        scattered += light * toward[:, 2:].clamp_min(0)
    light = torch.where(depth < FAR, GROUND / torch.pi * scattered, SKY)

    solid = Rays(hits.label > 0)
    if solid.most:
        toward = solid.pack(direction)
        point = solid.pack(origin.expand_as(direction)) + toward * solid.pack(hits.depth[:, None])
        label = solid.pack(hits.label[:, None])[:, 0]
        solid.unpack(_solid_light(scene, point, toward, label, mirrors), light)
    return light


def _solid_light(scene: Scene, point: Tensor, direction: Tensor, label: Tensor, mirrors: int) -> Tensor:
    """What points (n 3 P) of the solids that `label` names send back along rays of `direction`."""
    normal = normals(scene.solids, label, point, SHARPNESS)
    mirrored = direction - 2 * (direction * normal).sum(1, keepdim=True) * normal
    column = (label - 1).clamp_min(0)
    color = scene.color.transpose(1, 2).gather(2, column[:, None].expand(-1, 3, -1))
    metal = scene.metal.gather(1, column)
    strength = torch.where(metal, METAL_GLOSS[0], RUBBER_GLOSS[0])
    exponent = torch.where(metal, METAL_GLOSS[1], RUBBER_GLOSS[1])
    scattered, gloss = torch.full_like(point, AMBIENT), torch.zeros_like(point)
    for light, toward in _lamplight(scene, point, label, mirrors > 0):
        scattered += light * (normal * toward).sum(1, keepdim=True).clamp_min(0)
        gloss += light * (strength * (mirrored * toward).sum(1).clamp_min(0).pow(exponent))[:, None]
    light = color * scattered / torch.pi
    mirror = Rays(metal & (label > 0))
    if mirrors and mirror.most:
        heading = mirror.pack(mirrored)
        start = mirror.pack(point) + LIFT * heading
        image = radiance(scene, start, heading, cast(scene.solids, start, heading), mirrors - 1)
        image = MIRRORED * mirror.pack(color) * image + (1 - MIRRORED) * mirror.pack(light)
        mirror.unpack(image, light)
    return light + gloss


def _lamplight(scene: Scene, point: Tensor, label: Tensor, shadows: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """For each lamp, the light (n 3 P) that reaches points (n 3 P), and the unit vectors (n 3 P) toward it."""
    for number in range(scene.lamps.shape[1]):
        lamp = scene.lamps[:, number, :, None]
        toward = lamp - point
        squared = toward.square().sum(1, keepdim=True)
        toward *= squared.rsqrt()
        seen = 1 / squared
        if shadows:
            seen *= 1 - shadow(scene.solids, lamp, point, label, scene.softness[number])[:, None]
        yield scene.power[number][:, None] * seen, toward


def shadow(solids: Solids, lamp: Tensor, point: Tensor, label: Tensor, radius: Tensor) -> Tensor:
    """(n P) in [0, 1]: how much of a lamp (n 3 1) is hidden from points (n 3 P) of the solids that `label` names.

    One ray for each point. The hidden share is the way of the ray through a solid over the width that the half shadow
    of a lamp of that radius has there: none where the solid touches the point, growing with the distance from it. A
    convex solid hides no point of itself that faces the lamp, so the point's own solid does not count.
    """
    way = point - lamp
    distance = way.square().sum(1).sqrt()
    pairs = meet(solids, lamp, way / distance[:, None])
    end, own = distance.view(-1)[pairs.ray], label.view(-1)[pairs.ray]
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
        self.row, ray = chosen.nonzero().unbind(1)
        counts = chosen.sum(1)
        self.most = int(counts.max())
        first = counts.cumsum(0) - counts
        self.slot = torch.arange(len(ray), device=ray.device) - first[self.row]
        self.place = self.row.new_zeros(len(chosen), self.most)
        self.place[self.row, self.slot] = ray
        self.ray = ray

    def pack(self, values: Tensor) -> Tensor:
        """(n C P) -> (n C most); scenes with fewer repeat their ray 0."""
        return values.gather(2, self.place[:, None].expand(-1, values.shape[1], -1))

    def unpack(self, packed: Tensor, values: Tensor) -> None:
        """Write (n C most) back to their places in (n C P)."""
        values[self.row, :, self.ray] = packed[self.row, :, self.slot]

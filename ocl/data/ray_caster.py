"""Rays against cubes, spheres and cylinders, in closed form and in batches.

Every solid is a unit solid (radius, half side and half height one, around the origin) that was scaled by its half
extent, turned about the vertical and moved. Rays are carried into its frame, where the three closed forms are short.
World coordinates are right-handed with z up. Torch in float32 throughout, on whichever device the solids lie.

Letters besides those of `ocl.shapes`: n scenes, P rays in each of them, R pairs of a ray and a solid near it. The three
coordinates of a vector come before its rays, (n 3 P) or (3 R), as the channels of an image do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("cube", "sphere", "cylinder")
"""Names of the solids; `Solids.kind` holds indices into them."""
REACH = (3**0.5, 1.0, 2**0.5)
"""Radius of the sphere around each unit solid."""

SLACK = 1e-3
"""What rounding may take from a squared distance between a ray and a centre."""
TINY = 1e-9


@dataclass
class Solids:
    """M solids in each of n scenes.

    kind:    (n M) int64, index into `KINDS`.
    center:  (n M 3).
    half:    (n M) half of the height, and the radius or half of the side.
    angle:   (n M) radians, anticlockwise seen from above.
    present: (n M) bool; no ray meets the others.
    """

    kind: Tensor
    center: Tensor
    half: Tensor
    angle: Tensor
    present: Tensor


@dataclass
class Pairs:
    """Rays and the solids that they pass near.

    ray:          (R) place of the ray in the flattened (n P).
    column:       (R) which of the scene's M solids.
    enter, leave: (R) where the ray is inside the solid, as distances from its origin; enter >= leave where it misses.
    """

    ray: Tensor
    column: Tensor
    enter: Tensor
    leave: Tensor


@dataclass
class Hits:
    """The nearest solid along each ray.

    label: (n P) int64: m + 1 where the ray meets solid m first, 0 where it meets none.
    depth: (n P) distance of the hit from the origin; infinite where there is none.
    """

    label: Tensor
    depth: Tensor


def cube_span(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """(3 R) rays in the cube's frame -> (R) where they enter and leave it; enter >= leave where they miss it."""
    inverse = 1 / torch.where(direction.abs() < TINY, TINY, direction)
    middle, width = -origin * inverse, inverse.abs()
    return (middle - width).amax(0), (middle + width).amin(0)


def sphere_span(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """As `cube_span`. Measured from the point nearest to the centre: far away, the usual discriminant loses digits."""
    squared = direction.square().sum(0).clamp_min(TINY)
    nearest = -(origin * direction).sum(0) / squared
    inside = 1 - (origin + nearest * direction).square().sum(0)
    width = (inside.clamp_min(0) / squared).sqrt()
    return torch.where(inside <= 0, torch.inf, nearest - width), nearest + width


def cylinder_span(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """As `cube_span`: what the round side and the two lids have in common."""
    enter, leave = sphere_span(origin[:2], direction[:2])
    above, below = cube_span(origin[2:], direction[2:])
    return torch.maximum(enter, above), torch.minimum(leave, below)


SPANS = (cube_span, sphere_span, cylinder_span)


def meet(solids: Solids, origin: Tensor, direction: Tensor) -> Pairs:
    """All solids that rays come near.

    Args:
        origin: (n 3 P), or (n 3 1) where all rays of a scene begin in one point, which is faster.
        direction: (n 3 P) of length one.
    """
    # A ray passes through the sphere around a solid if its centre lies further along the ray than the tangents from
    # the origin are long. One matrix product finds all (n M P): [center, -1] [direction, origin . direction].
    center = solids.center
    along = (origin * direction).sum(1, keepdim=True)
    along = torch.cat([center, -torch.ones_like(center[..., :1])], -1) @ torch.cat([direction, along], 1)
    apart = center.square().sum(-1, keepdim=True) + origin.square().sum(1, keepdim=True) - 2 * center @ origin
    reach = (solids.half * torch.tensor(REACH, device=center.device)[solids.kind])[..., None]
    tangent = apart - reach.square() - SLACK
    least = torch.where(tangent > 0, tangent.clamp_min(0).sqrt(), -torch.inf)  # an origin inside the sphere: all rays
    least = least.masked_fill(~solids.present[..., None], torch.inf)
    scene, column, ray = (along > least).nonzero().unbind(1)

    ray = scene * direction.shape[2] + ray
    solid = scene * center.shape[1] + column
    frames = torch.stack([solids.angle.cos(), -solids.angle.sin(), torch.ones_like(solids.half)]) / solids.half
    frame = frames.view(3, -1).index_select(1, solid)
    heading = turned(_flat(direction).index_select(1, ray), *frame)
    middle = center.movedim(2, 0)
    if origin.shape[2] == 1:
        start = turned(origin.movedim(1, 0) - middle, *frames).view(3, -1).index_select(1, solid)
    else:
        start = turned(_flat(origin).index_select(1, ray) - middle.reshape(3, -1).index_select(1, solid), *frame)
    kind = solids.kind.reshape(-1).index_select(0, solid)
    enter, leave = heading.new_empty(2, len(solid))
    for number, span in enumerate(SPANS):
        chosen = (kind == number).nonzero().squeeze(1)
        enter[chosen], leave[chosen] = span(start.index_select(1, chosen), heading.index_select(1, chosen))
    return Pairs(ray, column, enter, leave)


def turned(vectors: Tensor, cosine: Tensor, sine: Tensor, height: Tensor | float = 1.0) -> Tensor:
    """(3 ...) vectors, turned about the vertical by an angle of (...) `cosine` and `sine`; z times `height`."""
    x, y, z = vectors
    return torch.stack([cosine * x - sine * y, sine * x + cosine * y, height * z])


def cast(solids: Solids, origin: Tensor, direction: Tensor) -> Hits:
    """The nearest solid along each ray; of two at the same distance, the earlier column. Arguments as in `meet`."""
    pairs = meet(solids, origin, direction)
    hit = ((pairs.enter < pairs.leave) & (pairs.enter > 0)).nonzero().squeeze(1)
    # The bits of positive floats sort as integers do: one minimum finds the depth and, in its low byte, the label.
    key = (pairs.enter[hit].view(torch.int32).long() << 8) | (pairs.column[hit] + 1)
    nothing = int(torch.tensor(torch.inf).view(torch.int32)) << 8
    shape = (direction.shape[0], direction.shape[2])
    best = torch.full((shape[0] * shape[1],), nothing, device=direction.device)
    best.scatter_reduce_(0, pairs.ray[hit], key, "amin")
    return Hits((best & 255).view(shape), (best >> 8).int().view(torch.float32).view(shape))


def normals(solids: Solids, label: Tensor, point: Tensor, sharpness: float = torch.inf) -> Tensor:
    """Outward unit normals (n 3 P) of the solids that `label` (n P) names, at points (n 3 P) of their surfaces.

    Label 0 gets (0, 0, 1). A `sharpness` below infinity bends the normals of cubes and cylinders toward each other near
    an edge, as if it were rounded: the coordinates of the unit solid's point count by that power.
    """
    on = label.nonzero(as_tuple=True)
    scene, column = on[0], label[on] - 1
    solid = scene * solids.kind.shape[1] + column
    half, angle, kind = (values.reshape(-1)[solid] for values in (solids.half, solids.angle, solids.kind))
    cosine, sine = angle.cos(), angle.sin()
    local = point.transpose(0, 1)[:, on[0], on[1]] - _flat(solids.center.transpose(1, 2))[:, solid]
    local = turned(local, cosine, -sine) / half
    # The largest of these is one on the surface: |x|, |y|, |z| of a cube, the radius and |z| of a cylinder.
    cube = _sharpened(local, sharpness)
    radius = local[:2].square().sum(0).sqrt().clamp_min(TINY)
    side, lid = _sharpened(torch.stack([radius, local[2]]), sharpness)
    cylinder = torch.cat([local[:2] / radius * side, lid[None]])
    normal = torch.where(kind == 0, cube, torch.where(kind == 1, local, cylinder))
    normal = turned(normal / normal.square().sum(0).sqrt(), cosine, sine)
    normals = torch.zeros_like(point)
    normals[:, 2] = 1
    normals.transpose(0, 1)[:, on[0], on[1]] = normal
    return normals


def _sharpened(values: Tensor, power: float) -> Tensor:
    """Each entry times |entry / largest|^power: only the largest stays where the power is infinite."""
    size = values.abs()
    return values * (size / size.amax(0).clamp_min(TINY)).pow(power)


def _flat(vectors: Tensor) -> Tensor:
    """(n 3 P) -> (3 n*P)."""
    return vectors.transpose(0, 1).reshape(3, -1)

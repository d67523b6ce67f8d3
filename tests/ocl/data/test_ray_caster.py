"""Against a scalar float64 implementation that shares no formula with the batched one."""

import numpy as np
import pytest
import torch

from ocl.data.ray_caster import KINDS, Solids, cast, meet, normals

CUBE, SPHERE, CYLINDER = range(3)


def solids(kind, center, half, angle, present=None):
    """(n M ...) arrays -> Solids."""
    kind = torch.as_tensor(kind)
    floats = (torch.as_tensor(np.asarray(values), dtype=torch.float32) for values in (center, half, angle))
    return Solids(kind, *floats, torch.ones_like(kind, dtype=torch.bool) if present is None else torch.tensor(present))


def scalar_hit(kind, center, half, angle, origin, direction):
    """Nearest depth and outward normal of one solid along one ray, by testing each of its surfaces; None if missed."""
    c, s = np.cos(angle), np.sin(angle)
    to_world = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    found = []

    def take(depth, normal, inside):
        if depth > 0 and inside(to_world.T @ (origin + depth * direction - center)):
            found.append((depth, normal))

    def plane(axis, sign, inside):
        normal = to_world @ (sign * np.eye(3)[axis])
        slope = normal @ direction
        if slope < 0:  # only from outside
            take((normal @ center + half - normal @ origin) / slope, normal, inside)

    offset, flat = origin - center, np.array([1.0, 1.0, 1.0 if kind == SPHERE else 0.0])
    if kind == CUBE:
        for axis in range(3):
            others = [other for other in range(3) if other != axis]
            for sign in (-1, 1):
                plane(axis, sign, lambda p, others=others: np.abs(p[others]).max() <= half)
    else:
        a, b = (flat * direction) @ direction, (flat * direction) @ offset
        discriminant = b * b - a * ((flat * offset) @ offset - half**2)
        if discriminant > 0:
            depth = (-b - np.sqrt(discriminant)) / a
            normal = flat * (offset + depth * direction) / half
            take(depth, normal, lambda p: kind == SPHERE or abs(p[2]) <= half)
        if kind == CYLINDER:
            for sign in (-1, 1):
                plane(2, sign, lambda p: np.hypot(p[0], p[1]) <= half)
    return min(found, key=lambda pair: pair[0], default=None)


def random_rays(generator, count, half):
    """Origins around the origin of the world, 1.8 to 12 away, aimed near it."""
    origin = generator.normal(size=(count, 3))
    origin *= generator.uniform(1.8, 12, size=(count, 1)) / np.linalg.norm(origin, axis=1, keepdims=True)
    direction = generator.uniform(-1.5, 1.5, size=(count, 3)) * half - origin
    return origin, direction / np.linalg.norm(direction, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", range(3), ids=KINDS)
@pytest.mark.parametrize("single", [False, True], ids=["many_origins", "one_origin"])
def test_depths_and_normals_agree_with_a_scalar_implementation(kind, single):
    generator = np.random.default_rng(kind)
    count, missed = 3000, 0
    half, angle = 0.7, 1.1
    center = np.array([0.4, -1.3, 0.7])
    origin, direction = random_rays(generator, count, half)
    if single:
        origin[:] = (6.0, -5.0, 4.0)
        direction = generator.uniform(-1.2, 1.2, size=(count, 3)) * half - origin
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    origin += center
    solid = solids([[kind]], [[center]], [[half]], [[angle]])
    start, heading = (torch.tensor(values.T[None], dtype=torch.float32) for values in (origin, direction))
    hits = cast(solid, start[:, :, :1] if single else start, heading)
    found = hits.label[0].numpy()
    depth = hits.depth[0].double().numpy()
    point = start + heading * hits.depth.nan_to_num(posinf=0)[:, None]
    normal = normals(solid, hits.label, point)[0].T.double().numpy()
    disagree = 0
    for row in range(count):
        expected = scalar_hit(kind, center, half, angle, origin[row], direction[row])
        missed += expected is None
        if (expected is None) != (found[row] == 0):
            disagree += 1  # a ray along the outline, decided by rounding
        elif expected is None:
            assert np.isinf(depth[row])
        else:
            assert depth[row] == pytest.approx(
                expected[0], abs=2e-3 if abs(expected[1] @ direction[row]) < 0.05 else 2e-5
            )
            disagree += np.abs(normal[row] - expected[1]).max() > 1e-3  # or an edge
    assert disagree <= 3
    assert 0.1 < missed / count < 0.9


@pytest.mark.parametrize("distance", [3.0, 8.0, 14.0])
def test_a_sphere_covers_the_rays_within_its_angle(distance):
    """The cone of half angle asin(r / d) around the centre, whatever the direction of view."""
    generator = np.random.default_rng(0)
    direction = generator.normal(size=(200_000, 3)) * 0.2 + (0.0, 1.0, 0.0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    for toward in ((0.0, 1.0, 0.0), (0.1, 0.97, -0.2)):
        axis = np.array(toward) / np.linalg.norm(toward)
        solid = solids([[SPHERE]], [[distance * axis]], [[0.7]], [[0.0]])
        heading = torch.tensor(direction.T[None], dtype=torch.float32)
        covered = cast(solid, torch.zeros(1, 3, 1), heading).label[0].numpy() == 1
        angle = np.arccos(np.clip(direction @ axis, -1, 1))
        clear = np.abs(angle - np.arcsin(0.7 / distance)) > 1e-6
        np.testing.assert_array_equal(covered[clear], angle[clear] < np.arcsin(0.7 / distance))
        assert covered.any()


def test_the_nearest_of_many_wins_and_absent_solids_are_not_met():
    generator = np.random.default_rng(1)
    kind = generator.integers(0, 3, size=(2, 9))
    center = generator.uniform(-3, 3, size=(2, 9, 3))
    half = generator.uniform(0.3, 1.2, size=(2, 9))
    angle = generator.uniform(0, 7, size=(2, 9))
    present = generator.random((2, 9)) < 0.7
    direction = torch.tensor(generator.normal(size=(2, 3, 1500)) * 0.3 + [[0], [1], [0]], dtype=torch.float32)
    direction /= direction.norm(dim=1, keepdim=True)
    origin = torch.tensor([[[0.1], [-9.0], [0.2]], [[-0.5], [-8.0], [1.0]]])
    hits = cast(solids(kind, center, half, angle, present), origin, direction)
    shared = 0
    for scene in range(2):
        for ray in range(1500):
            arguments = origin[scene, :, 0].double().numpy(), direction[scene, :, ray].double().numpy()
            depths = {
                column + 1: hit[0]
                for column in np.flatnonzero(present[scene])
                if (hit := scalar_hit(*(a[scene, column] for a in (kind, center, half, angle)), *arguments))
            }
            shared += len(depths) > 1
            nearest = min(depths, key=depths.__getitem__, default=0)
            if hits.label[scene, ray] != nearest:  # only where two depths agree
                assert abs(depths.get(int(hits.label[scene, ray]), np.inf) - depths.get(nearest, np.inf)) < 1e-4
    assert shared > 200
    for labels, there in zip(hits.label, present, strict=True):
        assert set(labels.unique().tolist()) <= {0, *(np.flatnonzero(there) + 1).tolist()}


def test_of_two_solids_in_one_place_the_earlier_is_hit():
    solid = solids([[SPHERE, SPHERE]], [[[0.0, 5, 0], [0, 5, 0]]], [[0.7, 0.7]], [[0.0, 0]])
    hits = cast(solid, torch.zeros(1, 3, 1), torch.tensor([[[0.0], [1], [0]]]))
    assert hits.label.item() == 1
    assert hits.depth.item() == pytest.approx(4.3, abs=1e-6)


def test_rays_behind_and_inside():
    """Nothing behind the origin is hit; a ray that begins inside leaves without entering, and no hit is reported."""
    solid = solids([[CUBE]], [[[0.0, 0, 0]]], [[1.0]], [[0.3]])
    origin = torch.tensor([[[0.0, 0.0], [3.0, 0.2], [0.0, 0.0]]])
    hits = cast(solid, origin, torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]]))
    assert hits.label.tolist() == [[0, 0]]
    pairs = meet(solid, origin[..., 1:], torch.tensor([[[0.0], [1.0], [0.0]]]))
    assert pairs.enter.item() < 0 < pairs.leave.item()


def test_rounded_normals_stay_unit_and_close_to_the_face():
    solid = solids([[CUBE, CYLINDER]], [[[0.0, 0, 0], [5, 0, 0]]], [[1.0, 1.0]], [[0.0, 0.0]])
    place = torch.linspace(-0.999, 0.999, 101)
    one = torch.ones_like(place)
    label = torch.cat([one, 2 * one]).long()[None]
    top = torch.stack([torch.cat([place, place + 5]), torch.zeros(202), torch.ones(202)])[None]
    normal = normals(solid, label, top, sharpness=24.0)[0]
    torch.testing.assert_close(normal.norm(dim=0), torch.ones(202))
    middle = (place.abs() < 0.75).repeat(2)
    assert (normal[2, middle] > 0.9999).all()
    assert (normal[0, ~middle] * torch.cat([place, place])[~middle] > 0).all()  # outward, toward the next face
    exact = normals(solid, label, top)[0]
    assert torch.equal(exact, torch.tensor([0.0, 0.0, 1.0])[:, None].expand(3, 202))

from dataclasses import replace

import numpy as np
import pytest
import torch

from ocl.data import clevr_stage as stage
from ocl.data.ray_caster import Solids, cast
from ocl.data.ray_shading import AMBIENT, GROUND, SKY, Lamps, Rays, Scene, lamplight, radiance, shadow

SPHERE = 1


def sphere(center, radius):
    one = torch.ones(1, 1)
    return Solids(SPHERE * one.long(), torch.tensor([[center]]), radius * one, 0 * one, one.bool())


def nothing(lamp, power=10.0):
    """An empty ground under one white lamp."""
    empty = torch.zeros(1, 1)
    solids = Solids(empty.long(), torch.zeros(1, 1, 3), empty + 1, empty, empty.bool())
    lamps = Lamps(torch.tensor([[lamp]]), torch.full((1, 3), power), (0.1,))
    return Scene(solids, torch.ones(1, 1, 3), empty.bool(), lamps)


def crowded(metal):
    """Two scenes of seven solids, and the camera's rays."""
    generator = np.random.default_rng(4)
    feet = [(0, 0), (2, 1), (-2, 2), (1, -2), (-1, 2.6), (2.6, -1), (-2.8, -1)]
    center = torch.tensor([[[x, y, 0.6] for x, y in feet]] * 2)
    half = torch.full((2, 7), 0.6)
    kind = torch.tensor(generator.integers(0, 3, (2, 7)))
    solids = Solids(kind, center, half, torch.rand(2, 7) * 6, torch.ones(2, 7, dtype=torch.bool))
    eye = stage.draw_eyes(generator, 2)
    scene = Scene(solids, torch.rand(2, 7, 3), torch.full((2, 7), metal), stage.lamps(stage.draw_lamps(generator, 2)))
    return scene, *stage.rays(eye, 96)


def test_the_ground_under_one_lamp_follows_the_inverse_square_law():
    """An irradiance of P cos / d^2 = P h / (h^2 + r^2)^(3/2) at distance r from the foot, scattered as by Lambert."""
    height, power = 4.0, 10.0
    radius = torch.linspace(0, 6, 50)
    eye = torch.tensor([[[0.0], [0.0], [8.0]]])
    direction = torch.stack([radius, 0 * radius, -8 + 0 * radius])[None]
    direction = direction / direction.norm(dim=1, keepdim=True)
    scene = nothing((0.0, 0.0, height), power)
    light = radiance(scene, eye, direction, cast(scene.solids, eye, direction))
    expected = GROUND / torch.pi * (power * height / (height**2 + radius**2) ** 1.5 + AMBIENT)
    torch.testing.assert_close(light[0], expected.expand(3, 50), rtol=1e-5, atol=1e-6)
    upward = -direction
    assert (radiance(scene, eye, upward, cast(scene.solids, eye, upward)) == SKY).all()


def test_a_sphere_shadows_the_points_whose_way_to_the_lamp_meets_it():
    generator = np.random.default_rng(0)
    lamp, center, radius = np.array([2.0, -1.0, 6.0]), np.array([0.5, 0.3, 1.2]), 0.8
    point = np.concatenate([generator.uniform(-6, 6, (20_000, 2)), np.zeros((20_000, 1))], axis=1)
    way = point - lamp
    distance = np.linalg.norm(way, axis=1)
    along = ((center - lamp) * way).sum(1) / distance**2
    apart = np.linalg.norm(lamp + along[:, None] * way - center, axis=1)
    torch_way, length = (torch.tensor(v, dtype=torch.float32)[None] for v in ((way / distance[:, None]).T, distance))
    hidden = shadow(
        sphere(center.astype(np.float32).tolist(), radius),
        torch.tensor(lamp, dtype=torch.float32)[None, :, None],
        torch_way,
        length,
        torch.zeros(1, 20_000, dtype=torch.long),
        0.3,
    )[0].numpy()
    clear = np.abs(apart - radius) > 1e-5
    np.testing.assert_array_equal(hidden[clear] > 0, apart[clear] < radius)
    assert hidden.max() == 1
    assert hidden.min() == 0
    half = (hidden > 0) & (hidden < 1)
    assert half.any()
    assert apart[half].min() > apart[hidden == 1].min()


def test_a_larger_lamp_casts_a_softer_shadow():
    scene, eye, direction = crowded(metal=False)
    hits = cast(scene.solids, eye, direction)
    point = eye + direction * hits.depth.nan_to_num(posinf=10.0)[:, None]
    way = point - scene.lamps.position[:, 1, :, None]
    length = way.norm(dim=1)
    shadows = [
        shadow(scene.solids, scene.lamps.position[:, 1, :, None], way / length[:, None], length, hits.label, radius)
        for radius in (0.0, 0.2, 0.8)
    ]
    assert (shadows[0] >= shadows[1]).all()
    assert (shadows[1] >= shadows[2]).all()
    assert shadows[0].mean() > shadows[1].mean() > shadows[2].mean() > 0


@pytest.mark.parametrize("metal", [False, True], ids=["rubber", "metal"])
def test_shadows_only_darken(metal):
    scene, eye, direction = crowded(metal)
    hits = cast(scene.solids, eye, direction)
    dark = radiance(scene, eye, direction, hits)
    lamps = replace(scene.lamps, radius=(None,) * 4)
    bright = radiance(replace(scene, lamps=lamps), eye, direction, hits)
    assert torch.isfinite(dark).all()
    assert (dark >= 0).all()
    assert (dark <= bright).all()
    shadowed = (dark < bright).all(dim=1)
    assert 0.1 < shadowed[hits.label == 0].float().mean() < 0.9
    assert shadowed[hits.label > 0].any()


def test_a_lone_convex_solid_does_not_shadow_itself():
    scene, eye, direction = crowded(metal=False)
    solids = Solids(*(values[:, :1] for values in vars(scene.solids).values()))
    alone = replace(scene, solids=solids)
    hits = cast(solids, eye, direction)
    point = eye + direction * hits.depth.nan_to_num(posinf=10.0)[:, None]
    for (light, _), (free, _) in zip(
        lamplight(alone, point, hits.label), lamplight(alone, point, hits.label, shadows=False), strict=True
    ):
        assert torch.equal(light[hits.label > 0], free[hits.label > 0])


def test_metal_mirrors_what_matt_solids_do_not():
    """The same colour everywhere: only in metal does a neighbour's colour show."""
    scene, eye, direction = crowded(metal=False)
    scene.color[:] = 0.8
    scene.color[:, 0] = torch.tensor([1.0, 0.0, 0.0])  # one red solid among white ones
    power = scene.lamps.power.mean(dim=1, keepdim=True).expand(-1, 3)
    scene = replace(scene, lamps=replace(scene.lamps, power=power))
    hits = cast(scene.solids, eye, direction)
    others = (hits.label > 1)[:, None]

    def reddest(metal):
        light = radiance(replace(scene, metal=torch.full((2, 7), metal)), eye, direction, hits)
        return ((light[:, :1] - light[:, 1:2]) * others).max().item()

    assert reddest(False) < 1e-5
    assert reddest(True) > 0.05


def test_packed_rays_return_to_their_places():
    chosen = torch.rand(4, 30) < torch.tensor([[0.0], [0.2], [0.7], [1.0]])
    values = torch.randn(4, 3, 30)
    rays = Rays(chosen)
    assert rays.most == 30
    copy = values.clone()
    rays.unpack(2 * rays.pack(values), copy)
    torch.testing.assert_close(copy, torch.where(chosen[:, None], 2 * values, values))

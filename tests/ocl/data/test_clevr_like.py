import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ocl.data import clevr_stage as stage
from ocl.data.clevr_like import COLORS, MATERIALS, RGB, ClevrLikeScenes
from ocl.data.clevr_placement import BEHIND, RADII, RIGHT, SIZES, place
from ocl.data.collate import collate
from ocl.data.ray_caster import KINDS, Solids, cast

CUBE = KINDS.index("cube")


def within(share, expected, count):
    """Four standard errors of a binomial share."""
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


@pytest.fixture(scope="module")
def many():
    """Small images, so that there can be many; the rules do not depend on the size."""
    return ClevrLikeScenes(1, image_size=24).generate(np.random.default_rng(7), 800)


@pytest.fixture(scope="module")
def scenes():
    """Images of the usual size."""
    return ClevrLikeScenes(1).generate(np.random.default_rng(3), 32)


def present(scenes):
    return scenes["position_3d"][..., 2] > 0


def test_the_camera_is_that_of_a_published_scene():
    """Image 0 of CLEVR's validation split, 480 x 320: published 3d_coords and (rounded) pixel_coords with depth.

    The jittered camera is not published. Its position is the one that explains the five depths and pixels best.
    """
    point = np.array(
        [
            [-1.4937210083007812, -1.9936031103134155, 0.7],
            [1.555708646774292, -2.104736566543579, 0.7],
            [-2.342184543609619, -0.5205014944076538, 0.35],
            [-0.8073106408119202, 1.914123773574829, 0.7],
            [2.6763813495635986, 0.03453871235251427, 0.35],
        ]
    )
    pixel = np.array([[119, 131], [198, 190], [161, 118], [282, 100], [337, 195]])
    depth = np.array([10.801968574523926, 8.60103988647461, 12.372727394104004, 12.495001792907715, 9.161211967468262])
    eye = np.array([[7.83994, -6.21842, 4.97507]])
    assert (np.abs(eye - stage.EYE) <= stage.EYE_JITTER).all()
    place = stage.project(eye, point[None])[0]
    # From sides of the crop, 192 of 320 pixels wide, around the camera's middle, to pixels of an image 480 wide.
    found = np.array([240, 160]) + (place - stage.MIDDLE) * stage.CROP * 480 / 320
    assert np.abs(found - pixel).max() < 0.55  # they are rounded
    np.testing.assert_allclose((point - eye) @ stage.frames(eye)[0, 2], depth, atol=2e-3)


def test_rays_pass_through_the_pixels_that_points_project_to():
    eye = stage.draw_eyes(np.random.default_rng(0), 4)
    origin, direction = stage.rays(eye, 32)
    points = (origin + 7.0 * direction).transpose(1, 2).double().numpy()
    pixel = (np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2) + 0.5) / 32
    np.testing.assert_allclose(stage.project(eye, points), np.broadcast_to(pixel, (4, 1024, 2)), atol=1e-5)


def test_boxes_enclose_spheres_tightly():
    generator = np.random.default_rng(0)
    eye = stage.draw_eyes(generator, 40)
    center = np.concatenate([generator.uniform(-2, 2, (40, 1, 2)), generator.uniform(0, 1, (40, 1, 1))], -1)
    radius = generator.uniform(0.3, 1.2, (40, 1))
    floats = (torch.tensor(values, dtype=torch.float32) for values in (center, radius, np.zeros((40, 1))))
    one = torch.ones(40, 1, dtype=torch.long)
    label = cast(Solids(one * KINDS.index("sphere"), *floats, one.bool()), *stage.rays(eye, 256)).label.view(
        40, 256, 256
    )
    boxes = stage.boxes(eye, center, radius)[:, 0] * 256
    for mask, box in zip(label.numpy(), boxes, strict=True):
        y, x = np.nonzero(mask)
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        expected = box.clip(0, 256)
        assert (found[:2] - expected[:2] > -0.51).all()
        assert (found[2:] - expected[2:] < 0.51).all()
        assert np.abs(found - expected).max() < 1.5  # the outermost row or column of a disc can fall between centres


def test_no_scene_is_given_up_that_would_have_shown_enough():
    data = ClevrLikeScenes(1, image_size=48)
    generator = np.random.default_rng(0)
    number, eye = generator.integers(3, 11, 400), stage.draw_eyes(generator, 400)
    drawn = data._draw(generator, number)
    hopeful, good = data._hopeful(number, drawn, eye), data._cast(number, drawn, eye)[2]
    assert not (good & ~hopeful).any()
    assert good.mean() < hopeful.mean() < 0.9


def test_numbers_are_uniform_and_columns_are_filled_from_the_first(many):
    there = present(many)
    number = there.sum(1)
    assert all(within((number == count).mean(), 1 / 8, 800) for count in range(3, 11))
    np.testing.assert_array_equal(there, np.arange(10) < number[:, None])
    np.testing.assert_array_equal(many["visible"], there)
    assert all(not values[~there].any() for name, values in many.items() if name not in ("images", "segmentation"))


def test_objects_keep_the_rules_of_placement(many):
    assert len(many["images"]) >= 200
    for row in range(len(many["images"])):
        there = present(many)[row]
        position, size, shape = (many[name][row][there] for name in ("position_3d", "size", "shape"))
        assert np.abs(position[:, :2]).max() <= 3
        radius = np.array([0.7, 0.35])[size]
        np.testing.assert_allclose(position[:, 2], np.where(shape == CUBE, radius / np.sqrt(2), radius), rtol=1e-6)
        for first in range(len(position)):
            for second in range(first):
                apart = position[first, :2].astype(float) - position[second, :2]
                assert np.hypot(*apart) - radius[first] - radius[second] >= 0.25 - 1e-5
                right, behind = apart @ (0.6563113, 0.7544903), apart @ (-0.7544903, 0.6563113)
                assert min(abs(right), abs(behind)) >= 0.4 - 1e-5


def test_directions_of_the_rules_are_those_of_the_camera_without_jitter():
    right, _, forward = stage.frames(stage.EYE[None])[0]
    np.testing.assert_allclose(right[:2], RIGHT, atol=1e-4)
    np.testing.assert_allclose(forward[:2] / np.linalg.norm(forward[:2]), BEHIND, atol=1e-4)


def test_attributes_are_uniform_where_no_scene_is_drawn_anew():
    """With three objects and none required to be seen, no rule prefers an attribute."""
    drawn = ClevrLikeScenes(1, image_size=4, num_objects=(3, 3), min_pixels=0).generate(np.random.default_rng(0), 3000)
    count = 9000
    for name, names in (("shape", KINDS), ("color", COLORS), ("material", MATERIALS), ("size", SIZES)):
        assert all(within((drawn[name] == index).mean(), 1 / len(names), count) for index in range(len(names)))
    for low in (0, 0.5, 1, 1.5):
        inside = (drawn["angle"] >= low * np.pi) & (drawn["angle"] < (low + 0.5) * np.pi)
        assert within(inside.mean(), 1 / 4, count)
    for axis in range(2):  # the first object is free to stand anywhere
        assert within((drawn["position_3d"][:, 0, axis] < -1.5).mean(), 1 / 4, 3000)
        assert within((drawn["position_3d"][:, 0, axis] > 0).mean(), 1 / 2, 3000)


def test_colors_and_materials_do_not_depend_on_visibility(many):
    there = present(many)
    for name, names in (("color", COLORS), ("material", MATERIALS)):
        chosen = many[name][there]
        assert all(within((chosen == index).mean(), 1 / len(names), len(chosen)) for index in range(len(names)))


def test_every_object_shows_the_least_number_of_pixels(scenes):
    assert scenes["segmentation"].dtype == np.uint8
    labels = scenes["segmentation"].reshape(32, -1)
    pixels = np.stack([np.bincount(row, minlength=11)[1:] for row in labels])
    there = present(scenes)
    least = 200 * (128 / 192) ** 2
    assert least <= pixels[there].min() < 2 * least  # the rule is at work
    assert not pixels[~there].any()


def test_without_a_least_number_objects_can_be_hidden():
    loose = ClevrLikeScenes(1, image_size=48, min_pixels=0).generate(np.random.default_rng(0), 100)
    labels = loose["segmentation"].reshape(100, -1)
    seen = np.stack([np.bincount(row, minlength=11)[1:] > 0 for row in labels])
    np.testing.assert_array_equal(loose["visible"], seen)
    assert 0 < (present(loose) & ~seen).sum() < 0.15 * present(loose).sum()


def depths_of(scene, origin, direction):
    """(M P) depth along (P 3) rays of one scene's objects, infinite where missed: float64, shape by shape."""
    depths = []
    for column in np.flatnonzero(scene["position_3d"][:, 2] > 0):
        center, angle = scene["position_3d"][column].astype(float), float(scene["angle"][column])
        half = center[2]
        c, s = np.cos(angle), np.sin(angle)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        o, d = (origin - center) @ turn, direction @ turn
        with np.errstate(divide="ignore", invalid="ignore"):
            if KINDS[scene["shape"][column]] == "cube":
                t = np.sort(np.stack([(-half - o) / d, (half - o) / d]), axis=0)
                enter, leave = t[0].max(-1), t[1].min(-1)
            else:
                axes = 3 if KINDS[scene["shape"][column]] == "sphere" else 2
                a, b = (d[:, :axes] ** 2).sum(-1), d[:, :axes] @ o[:axes]
                root = np.sqrt(b * b - a * ((o[:axes] ** 2).sum() - half**2))
                enter, leave = (-b - root) / a, (-b + root) / a
                if axes == 2:
                    t = np.sort(np.stack([(-half - o[2]) / d[:, 2], (half - o[2]) / d[:, 2]]), axis=0)
                    enter, leave = np.maximum(enter, t[0]), np.minimum(leave, t[1])
            depths.append(np.where(enter < leave, enter, np.inf))
    return np.stack(depths)


def test_masks_are_those_of_the_nearest_object_along_every_ray():
    """Each object alone, in float64, from the attributes and the camera, which is drawn again from the same seed."""
    count = 12
    drawn = ClevrLikeScenes(1, image_size=64, num_objects=(6, 10)).generate(np.random.default_rng(5), count)
    generator = np.random.default_rng(5)
    generator.integers(6, 11, size=count)  # the numbers of objects
    eye = stage.draw_eyes(generator, count)
    np.testing.assert_allclose(
        stage.project(eye, drawn["position_3d"])[present(drawn)], drawn["position"][present(drawn)], atol=1e-5
    )
    occluded = 0
    for row in range(count):
        scene = {name: values[row] for name, values in drawn.items()}
        place = (np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).reshape(-1, 2) + 0.5) / 64 - stage.MIDDLE
        direction = np.column_stack([place[:, 0], -place[:, 1], np.full(len(place), stage.FOCAL)])
        direction = direction @ stage.frames(eye[row : row + 1])[0]
        depth = depths_of(scene, eye[row], direction / np.linalg.norm(direction, axis=1, keepdims=True))
        nearest = np.where(np.isfinite(depth).any(0), depth.argmin(0) + 1, 0)
        assert (nearest != scene["segmentation"].reshape(-1)).sum() <= 2  # of 4096: rays along an outline
        occluded += (np.isfinite(depth).sum(0) > 1).sum()
    assert occluded > 100


def test_a_sphere_appears_where_its_position_says(scenes):
    """The pixels of a wholly visible sphere surround its projected centre, to a pixel: perspective shifts them."""
    checked = 0
    rows, columns = np.nonzero(present(scenes) & (scenes["shape"] == KINDS.index("sphere")))
    for row, column in zip(rows, columns, strict=True):
        y, x = np.nonzero(scenes["segmentation"][row] == column + 1)
        if min(x.min(), y.min(), 127 - x.max(), 127 - y.max()) == 0:
            continue
        distance = np.linalg.norm(scenes["position_3d"][row, column] - stage.EYE)
        radius = 128 * stage.FOCAL * RADII[scenes["size"][row, column]] / distance
        if len(x) < 0.99 * np.pi * radius**2:
            continue  # hidden in part, or further away than the camera without jitter says
        found = np.array([x.mean(), y.mean()]) + 0.5
        assert np.abs(found - 128 * scenes["position"][row, column]).max() < 1
        checked += 1
    assert checked > 10


def test_matt_objects_have_the_hue_of_their_color(scenes):
    """Channels that differ clearly in the colour come in the same order in the pixels, under warm and cool lamps."""
    for row, column in zip(*np.nonzero(present(scenes) & (scenes["material"] == 0)), strict=True):
        rgb = RGB[scenes["color"][row, column]]
        mean = scenes["images"][row][:, scenes["segmentation"][row] == column + 1].mean(1)
        for first in range(3):
            for second in range(3):
                if rgb[first] > rgb[second] + 40:
                    assert mean[first] > mean[second]
    ground = scenes["images"].transpose(0, 2, 3, 1)[scenes["segmentation"] == 0]
    assert 90 < ground.mean() < 150
    assert np.ptp(ground.mean(0)) < 10  # grey


def test_the_seed_and_the_index_alone_decide():
    whole = ClevrLikeScenes(24, seed=2, block=8, image_size=32)
    alone = ClevrLikeScenes(100, seed=2, block=8, image_size=32)
    for index in (17, 3, 23):
        assert all(torch.equal(value, whole[index][name]) for name, value in alone[index].items())
    other = ClevrLikeScenes(24, seed=3, block=8, image_size=32)
    images = torch.stack([data[index]["images"] for data in (whole, other) for index in range(24)])
    assert len(images.flatten(1).unique(dim=0)) == 48


def test_workers_change_nothing():
    data = ClevrLikeScenes(32, seed=9, block=8, image_size=32)
    batches = ([*DataLoader(data, batch_size=8, num_workers=workers, collate_fn=collate)] for workers in (0, 2))
    for a, b in zip(*batches, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.segmentation, b.segmentation)
        assert all(torch.equal(a.objects[key], b.objects[key]) for key in a.objects)


def test_clevr6_like_scenes_hold_three_to_six_objects():
    drawn = ClevrLikeScenes(1, image_size=16, num_objects=(3, 6)).generate(np.random.default_rng(0), 200)
    number = present(drawn).sum(1)
    assert drawn["position"].shape == (200, 6, 2)
    assert set(number) == {3, 4, 5, 6}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same_scenes():
    cpu, gpu = (ClevrLikeScenes(1, device=device).generate(np.random.default_rng(0), 64) for device in ("cpu", "cuda"))
    assert (cpu["segmentation"] != gpu["segmentation"]).mean() < 1e-4
    difference = np.abs(cpu["images"].astype(int) - gpu["images"])
    assert (difference > 2).mean() < 1e-3
    assert np.array_equal(cpu["shape"], gpu["shape"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_objects": (0, 4)}, r"num_objects must be 1 <= least <= most <= 10, got \(0, 4\)"),
        ({"num_objects": (5, 4)}, "num_objects must be"),
        ({"num_objects": (3, 11)}, "num_objects must be"),
        ({"image_size": 0}, r"image_size must be in 1\.\.4096 pixels, got 0"),
        ({"min_pixels": -1.0}, "min_pixels must be at least 0"),
        ({"min_pixels": float("nan")}, "min_pixels must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ClevrLikeScenes(4, **arguments)


def test_impossible_scenes_are_refused(monkeypatch):
    monkeypatch.setattr("ocl.data.clevr_like.ATTEMPTS", 20)
    with pytest.raises(ValueError, match="each of 3 objects shows 100000 pixels of 320 x 240; ask for fewer"):
        ClevrLikeScenes(4, image_size=8, num_objects=(3, 3), min_pixels=1e5)[0]
    monkeypatch.setattr("ocl.data.clevr_placement.RESTARTS", 20)
    with pytest.raises(ValueError, match="30 objects find no place together"):
        place(np.random.default_rng(0), np.full(4, 30), 30)

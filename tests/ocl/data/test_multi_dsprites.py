import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb as matplotlib_hsv_to_rgb
from matplotlib.colors import rgb_to_hsv
from matplotlib.path import Path
from scipy.spatial import ConvexHull
from torch.utils.data import DataLoader

from ocl.data.collate import collate
from ocl.data.multi_dsprites import (
    ANGLES,
    HEART_CENTER,
    HEART_LOBE,
    HEART_RADIUS,
    HEART_TIP,
    INSIDE,
    POSITIONS,
    SCALES,
    BinarizedMultiDSprites,
    ColoredOnColoredMultiDSprites,
    ColoredOnGrayscaleMultiDSprites,
    hsv_to_rgb,
    render,
)

VARIANTS = (BinarizedMultiDSprites, ColoredOnGrayscaleMultiDSprites, ColoredOnColoredMultiDSprites)
AREAS = (19.2**2, np.pi * 12 * 7.8, 226)


def drawn(variant, count):
    generator = np.random.default_rng(3)
    blocks = [variant(1).generate(generator, 1000) for _ in range(count // 1000)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


@pytest.fixture(scope="module")
def many():
    return drawn(ColoredOnGrayscaleMultiDSprites, 40_000)


def within(share, expected, count):
    """Four standard errors of a binomial share."""
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def present(scenes):
    return scenes["scale"] > 0


def alone(shape, scale, angle, center):
    """(k) each: sprites drawn one by one -> (k 64 64) bool."""
    k = len(shape)
    column = [np.asarray(value)[:, None] for value in (center, shape, scale, angle)]
    colors = np.full((k, 1, 3), 200, np.uint8)
    return render(*column, np.ones((k, 1), bool), colors, np.zeros((k, 3), np.uint8))[1] > 0


def test_share_without_green_square_is_that_of_the_published_million(many):
    """817 352 of 1 000 000 images show no square with hue in [0.25, 0.42], saturation and value at least 0.5."""
    hue, saturation, value = np.moveaxis(rgb_to_hsv(many["rgb"]), -1, 0)
    green = (
        many["visible"] & (many["shape"] == 0) & (hue >= 0.25) & (hue <= 0.42) & (saturation > 0.49) & (value > 0.49)
    )
    assert within((~green.any(axis=1)).mean(), 0.817352, 40_000)


def test_attributes_are_uniform_on_the_published_grids(many):
    chosen = present(many)
    total = chosen.sum()
    assert all(within((chosen.sum(1) == number).mean(), 1 / 4, 40_000) for number in (2, 3, 4, 5))
    assert all(within((many["shape"][chosen] == shape).mean(), 1 / 3, total) for shape in range(3))
    for name, grid in (("scale", SCALES), ("angle", ANGLES)):
        found, counts = np.unique(many[name][chosen], return_counts=True)
        np.testing.assert_allclose(found, grid, rtol=1e-6)
        assert all(within(count / total, 1 / len(grid), total) for count in counts)
    for axis in range(2):
        found, counts = np.unique(many["position"][chosen][:, axis], return_counts=True)
        np.testing.assert_allclose(found, (16 + 32 * POSITIONS) / 64, rtol=1e-6)
        assert all(within(count / total, 1 / 32, total) for count in counts)
    _, saturation, value = np.moveaxis(rgb_to_hsv(many["rgb"][chosen]), -1, 0)
    assert saturation.min() > 0.49
    assert value.min() > 0.49
    grey = many["images"][many["segmentation"].reshape(-1, 64 * 64)[:, 0] == 0][:, :, 0, 0]
    assert (grey == grey[:, :1]).all()
    assert within((grey[:, 0] < 128).mean(), 0.5, len(grey))


@pytest.mark.parametrize("shape", range(3))
def test_areas_are_those_of_the_outlines_at_every_scale(shape):
    angle, place = (grid.reshape(-1) for grid in np.meshgrid(ANGLES, POSITIONS))
    center = 15.5 + 32 * np.stack([place, place], -1)
    for scale in SCALES:
        pixels = alone(np.full(len(angle), shape), np.full(len(angle), scale), angle, center).sum((1, 2))
        assert pixels.mean() == pytest.approx(AREAS[shape] * scale**2, rel=0.005)
        assert np.abs(pixels / (AREAS[shape] * scale**2) - 1).max() < 0.15


def test_outlines_agree_with_polygons():
    grid = (np.arange(-150, 150) + 0.5) / 10
    x, y = (axis.reshape(-1) for axis in np.meshgrid(grid, grid))
    points = np.stack([x, y], -1)
    turn = np.linspace(0, 2 * np.pi, 2000)
    square = Path(9.6 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])).contains_points(points)
    ellipse = Path(np.stack([12 * np.cos(turn), 7.8 * np.sin(turn)], -1)).contains_points(points)
    lobes = [
        np.stack([side + HEART_RADIUS * np.cos(turn), HEART_RADIUS * np.sin(turn)], -1)
        for side in (-HEART_LOBE, HEART_LOBE)
    ]
    outline = np.concatenate([*lobes, [[0, HEART_TIP]]])
    hull = Path(outline[ConvexHull(outline).vertices])
    lowered = points + [0, HEART_CENTER]
    heart = (hull.contains_points(lowered) & (lowered[:, 1] >= 0)) | np.any(
        [Path(lobe).contains_points(lowered) for lobe in lobes], 0
    )
    for expected, inside in zip((square, ellipse, heart), INSIDE, strict=True):
        assert (
            inside(x.astype(np.float32), y.astype(np.float32)) != expected
        ).sum() <= 4  # of 90 000: ties on the outline
    assert np.abs((points[heart]).mean(0)).max() < 0.02  # the centre is the centre of mass
    assert np.ptp(points[heart], axis=0) == pytest.approx([18, 15], rel=0.1)  # measured: about 18 wide, 15 high


@pytest.mark.parametrize("variant", VARIANTS)
def test_scenes_are_their_sprites_painted_in_order(variant):
    scenes = variant(1).generate(np.random.default_rng(1), 500)
    hidden = 0
    for row in range(500):
        chosen = present({key: value[row] for key, value in scenes.items()})
        number = chosen.sum()
        assert chosen[:number].all()
        assert variant.min_objects <= number <= variant.max_objects
        center = scenes["position"][row, :number].astype(float) * 64 - 0.5
        solo = alone(
            scenes["shape"][row, :number],
            scenes["scale"][row, :number].astype(float),
            scenes["angle"][row, :number].astype(float),
            center,
        )
        segmentation = np.zeros((64, 64), int)
        for column in range(number):
            segmentation[solo[column]] = column + 1
        different = scenes["segmentation"][row] != segmentation
        assert different.sum() <= 2  # attributes are float32: a pixel on an outline may fall the other way
        labels = np.unique(scenes["segmentation"][row])
        np.testing.assert_array_equal(scenes["visible"][row], np.isin(np.arange(1, variant.max_objects + 1), labels))
        hidden += number - scenes["visible"][row].sum()
        colors = np.rint(scenes["rgb"][row] * 255)
        for column in labels[labels > 0] - 1:
            pixels = scenes["images"][row][:, scenes["segmentation"][row] == column + 1]
            assert (pixels == colors[column][:, None]).all()
        background = scenes["images"][row][:, scenes["segmentation"][row] == 0]
        assert (background == background[:, :1]).all()
        assert not scenes["segmentation"][row, [0, -1]].any()
        assert not scenes["segmentation"][row, :, [0, -1]].any()
    assert hidden > 0


def test_absent_sprites_are_zero(many):
    chosen = present(many)
    assert not many["visible"][~chosen].any()
    assert all(not many[name][~chosen].any() for name in ("position", "shape", "angle", "rgb"))


def test_colors_of_the_other_variants():
    binary = BinarizedMultiDSprites(1).generate(np.random.default_rng(0), 200)
    np.testing.assert_array_equal(binary["images"], np.where(binary["segmentation"][:, None] > 0, 255, 0).repeat(3, 1))
    colored = drawn(ColoredOnColoredMultiDSprites, 20_000)
    chosen = present(colored)
    assert all(within((chosen.sum(1) == number).mean(), 1 / 4, 20_000) for number in (1, 2, 3, 4))
    for channel in colored["rgb"][chosen].T:
        assert within((channel < 0.5).mean(), 0.5, chosen.sum())


def test_hsv_agrees_with_matplotlib():
    hsv = np.random.default_rng(0).random((10_000, 3))
    np.testing.assert_allclose(hsv_to_rgb(*hsv.T), matplotlib_hsv_to_rgb(hsv), atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_workers_change_nothing(variant):
    scenes = variant(64, seed=9, block=16)
    for a, b in zip(
        *([*DataLoader(scenes, batch_size=16, num_workers=workers, collate_fn=collate)] for workers in (0, 2)),
        strict=True,
    ):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.segmentation, b.segmentation)
        assert all(torch.equal(a.objects[key], b.objects[key]) for key in a.objects)

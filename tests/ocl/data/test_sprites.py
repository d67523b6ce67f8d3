import numpy as np
import pytest
from PIL import Image, ImageDraw

from ocl.data.sprites import COLORS, FINE, SHAPES, SpriteRenderer, flip_y, polygon, seen

SIZES = (32, 64)


def random_sprites(count, columns, seed):
    generator = np.random.default_rng(seed)
    return (
        generator.uniform(0.05, 0.95, (count, columns, 2)),
        generator.integers(len(SHAPES), size=(count, columns)),
        generator.integers(len(COLORS), size=(count, columns)),
        generator.choice([0.15, 0.22], (count, columns)),
        np.ones((count, columns), dtype=bool),
    )


def supersampled(position, shape, color, scale, size):
    """One frame by brute force: the whole canvas ten times as fine, reduced with Lanczos. (3 size size)."""
    canvas = Image.new("RGB", (size * FINE, size * FINE))
    for m in range(len(shape)):
        corners = (polygon(shape[m]) * scale[m] + position[m]) * size * FINE
        ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=COLORS[color[m]])
    small = canvas.resize((size, size), Image.Resampling.LANCZOS).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(small).transpose(2, 0, 1)


def coverage(position, shape, scale, size):
    """(size size) the share of each pixel that one sprite covers, counted on the fine canvas."""
    canvas = Image.new("1", (size * FINE, size * FINE))
    corners = (polygon(shape) * scale + position) * size * FINE
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in corners], fill=1)
    return np.asarray(canvas)[::-1].reshape(size, FINE, size, FINE).mean(axis=(1, 3))


@pytest.mark.parametrize("size", SIZES)
def test_stamps_agree_with_a_supersampled_canvas(size):
    position, shape, color, scale, visible = random_sprites(60, 5, seed=size)
    images, _ = SpriteRenderer(size).render(position, shape, color, scale, visible)
    reference = np.stack([supersampled(position[i], shape[i], color[i], scale[i], size) for i in range(60)])
    assert np.abs(images.astype(float) - reference).mean() < 0.6 * 64 / size  # edges are a larger share of few pixels


def test_on_the_fine_grid_a_stamp_is_the_supersampled_sprite():
    generator = np.random.default_rng(3)
    for shape in range(len(SHAPES)):
        position = generator.integers(150, 490, (1, 1, 2)) / 640
        arguments = position, np.array([[shape]]), np.array([[3]]), np.array([[0.22]]), np.array([[True]])
        images, _ = SpriteRenderer(64).render(*arguments)
        reference = supersampled(position[0], [shape], [3], [0.22], 64)
        difference = np.abs(images[0].astype(int) - reference)
        assert difference.mean() < 0.05, SHAPES[shape]


def test_a_pixel_belongs_to_the_last_sprite_that_covers_half_of_it():
    generator = np.random.default_rng(0)
    _, shape, color, _, visible = random_sprites(20, 5, seed=1)
    position = generator.integers(100, 541, (20, 5, 2)) / 640  # on the fine grid: the coverage is a count
    scale = generator.choice([0.1512, 0.2234], (20, 5))  # no square's edge falls between two fine cells
    _, segmentation = SpriteRenderer(64).render(position, shape, color, scale, visible)
    decided = 0
    for i in range(20):
        expected = np.zeros((64, 64), dtype=np.uint8)
        clear = np.ones((64, 64), dtype=bool)  # corners on the border of two fine cells round either way
        for m in range(5):
            covered = coverage(position[i, m], shape[i, m], scale[i, m], 64)
            expected[covered >= 0.5] = m + 1
            clear &= abs(covered - 0.5) > 0.08
        assert np.array_equal(segmentation[i][clear], expected[clear])
        decided += clear.mean() / 20
    assert decided > 0.98


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_a_sprite_has_the_area_that_its_scale_says(shape):
    corners = polygon(shape)
    following = np.roll(corners, -1, axis=0)
    signed = np.sum(corners[:, 0] * following[:, 1] - corners[:, 1] * following[:, 0]) / 2
    assert abs(signed) == pytest.approx(1)
    position = np.random.default_rng(0).uniform(0.3, 0.7, (400, 1, 2))
    one = np.ones((400, 1), dtype=int)
    images, segmentation = SpriteRenderer(64).render(position, shape * one, 3 * one, 0.3 * one, one.astype(bool))
    area = (0.3 * 64) ** 2
    assert images[:, 0].sum(axis=(1, 2)).mean() / 255 == pytest.approx(area, rel=0.05)
    assert (segmentation == 1).sum(axis=(1, 2)).mean() == pytest.approx(area, rel=0.05)


def test_orientation_and_corners():
    star = polygon(SHAPES.index("star_4"))
    radius = np.hypot(*star.T)
    assert radius.max() == pytest.approx(2 * radius.min())
    assert star[radius.argmax()] @ [0, 1] == pytest.approx(radius.max())  # a point up, not a corner up
    assert polygon(SHAPES.index("triangle"))[:, 1].max() > -polygon(SHAPES.index("triangle"))[:, 1].min()
    assert np.ptp(polygon(0), axis=0) == pytest.approx([1, 1])
    assert len(polygon(SHAPES.index("spoke_4"))) == 12
    assert np.abs(polygon(SHAPES.index("spoke_4"))).max() == pytest.approx((1 + 0.5**0.5) / (2 + 4 * 2**0.5) ** 0.5)


def test_y_points_up_and_flip_y_gives_rows():
    position = np.array([[[0.25, 0.9]]])
    one = np.ones((1, 1), dtype=int)
    _, segmentation = SpriteRenderer(64).render(position, 0 * one, one, 0.15 * one, one.astype(bool))
    rows, columns = np.nonzero(segmentation[0])
    centre = np.array([(columns + 0.5).mean(), (rows + 0.5).mean()]) / 64
    assert centre == pytest.approx(flip_y(position)[0, 0], abs=0.01)
    assert rows.max() < 32
    assert np.array_equal(flip_y(flip_y(position)), position)


def test_later_columns_hide_earlier_ones_and_invisible_ones_are_not_drawn():
    position = np.full((2, 3, 2), 0.5)
    shape = np.array([[3, 0, 99]] * 2)
    color = np.array([[3, 0, -7]] * 2)
    scale = np.array([[0.15, 0.22, np.nan]] * 2)
    position[:, 2] = np.nan
    images, segmentation = SpriteRenderer(64).render(
        position, shape, color, scale, np.array([[True, True, False], [True, False, False]])
    )
    assert set(np.unique(segmentation[0])) == {0, 2}
    assert set(np.unique(segmentation[1])) == {0, 1}
    assert images[0, :, 32, 32].tolist() == [0, 0, 255]
    assert images[1, :, 32, 32].tolist() == [255, 0, 0]
    assert seen(segmentation, 3).tolist() == [[False, True, False], [True, False, False]]


def test_sprites_beyond_the_frame_are_cut_off():
    position = np.array([[[0.0, 0.0], [1.0, 1.0], [5.0, -3.0]]])
    shape, color = np.zeros((1, 3), dtype=int), np.full((1, 3), 3)
    images, segmentation = SpriteRenderer(64).render(
        position, shape, color, np.full((1, 3), 0.25), np.ones((1, 3), dtype=bool)
    )
    assert (segmentation == 1).sum() == (segmentation == 2).sum() == 64
    assert segmentation[0, -1, 0] == 1
    assert segmentation[0, 0, -1] == 2
    assert not (segmentation == 3).any()
    assert images[0, :, -1, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [("shape", 1, len(SHAPES)), ("color", 2, -1), ("scale", 3, 0.0), ("position", 0, np.nan)],
)
def test_values_that_do_not_exist_are_refused(name, index, value):
    arguments = list(random_sprites(4, 2, seed=0))
    arguments[index] = arguments[index].copy()
    arguments[index][2, 1] = value
    with pytest.raises(ValueError, match=name):
        SpriteRenderer(64).render(*arguments)
    arguments = list(random_sprites(4, 2, seed=0))
    arguments[index] = arguments[index][:, :1]
    with pytest.raises(ValueError, match=r"must be \(n, M\)"):
        SpriteRenderer(64).render(*arguments)

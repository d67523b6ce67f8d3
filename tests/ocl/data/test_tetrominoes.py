import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ocl.data.collate import collate
from ocl.data.tetrominoes import CELLS, RGB, SHAPES, Tetrominoes


@pytest.fixture(scope="module")
def many():
    return Tetrominoes(1).generate(np.random.default_rng(7), 80_000)


def within(share, expected, count):
    """Four standard errors of a binomial share."""
    return abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_shares_are_those_counted_in_the_published_million(many):
    """503 318 of 1 000 000 images hold no S or Z piece, 900 936 no green one."""
    skew = np.array([name[0] in "SZ" for name in SHAPES])[many["shape"]]
    green = many["color"] == 1
    assert within((~skew.any(axis=1)).mean(), 0.503318, 80_000)
    assert within((~(skew & green).any(axis=1)).mean(), 0.900936, 80_000)


def test_colors_are_uniform_and_independent_of_shape(many):
    assert all(within((many["color"] == color).mean(), 1 / 6, 240_000) for color in range(6))
    table = np.zeros((19, 6))
    np.add.at(table, (many["shape"], many["color"]), 1)
    expected = table.sum(1, keepdims=True) / 6
    chi_squared = ((table - expected) ** 2 / expected).sum()
    assert chi_squared < 19 * 5 + 5 * np.sqrt(2 * 19 * 5)


def test_there_are_19_different_fixed_tetrominoes():
    assert len(SHAPES) == len({tuple(map(tuple, cells)) for cells in CELLS}) == 19
    letters = "".join(name[0] for name in SHAPES)
    assert {letter: letters.count(letter) for letter in letters} == {
        "O": 1,
        "I": 2,
        "S": 2,
        "Z": 2,
        "T": 4,
        "J": 4,
        "L": 4,
    }
    for letter in "OISZTJL":  # all turns of a letter are rotations of its first drawing
        grids = [np.zeros((4, 4), int) for name in SHAPES if name[0] == letter]
        for grid, cells in zip(
            grids, (c for c, name in zip(CELLS, SHAPES, strict=True) if name[0] == letter), strict=True
        ):
            grid[tuple(cells.T // 5)] = 1
        turned = {np.trim_zeros(np.rot90(grids[0], k)).tobytes() for k in range(4)}
        assert {np.trim_zeros(grid).tobytes() for grid in grids} == turned


def test_pixels_agree_with_a_scene_drawn_cell_by_cell(many):
    bevel = {0: (0.75, 1, 1, 1, 0.875), 4: (0.5, 0.25, 0.25, 0.25, 0.5)}
    for row in range(300):
        image, mask = np.zeros((35, 35, 3)), np.zeros((35, 35), int)
        for piece in range(3):
            cells = CELLS[many["shape"][row, piece]]
            x, y = many["position"][row, piece] * 35 - (cells.max(0)[::-1] + 5) / 2
            assert abs(x - round(float(x))) + abs(y - round(float(y))) < 1e-4
            for cell_y, cell_x in cells:
                for i in range(5):
                    for j in range(5):
                        place = round(float(y)) + cell_y + i, round(float(x)) + cell_x + j
                        assert mask[place] == 0  # no pixel belongs to two pieces
                        mask[place] = piece + 1
                        share = bevel.get(i, (0.5, 0.625, 0.625, 0.625, 0.75))[j]
                        image[place] = share * RGB[many["color"][row, piece]]
        np.testing.assert_array_equal(many["segmentation"][row], mask)
        assert np.abs(many["images"][row].transpose(1, 2, 0) - 255 * image).max() <= 0.5


def test_every_piece_has_100_pixels(many):
    counts = np.stack([(many["segmentation"] == label).sum((1, 2)) for label in range(4)], 1)
    assert (counts == [925, 100, 100, 100]).all()
    assert many["visible"].all()


def test_workers_and_order_change_nothing():
    scenes = Tetrominoes(96, seed=4, block=16)
    alone, two = (
        list(DataLoader(scenes, batch_size=24, num_workers=workers, collate_fn=collate)) for workers in (0, 2)
    )
    for a, b in zip(alone, two, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.segmentation, b.segmentation)
        assert all(torch.equal(a.objects[key], b.objects[key]) for key in ("visible", "position", "shape", "color"))


def test_shapes_can_be_chosen():
    scenes = Tetrominoes(1, shapes=("O0", "I1")).generate(np.random.default_rng(0), 500)
    assert set(np.unique(scenes["shape"])) == {SHAPES.index("O0"), SHAPES.index("I1")}
    for shapes in ((), ("O0", "O0"), ("Q0",)):
        with pytest.raises(ValueError, match="shapes must be different names among O0, I0"):
            Tetrominoes(1, shapes=shapes)

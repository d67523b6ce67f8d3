"""Patch labels against a loop over patches, hand-made images and what must not happen at borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ocl.binding.labels import patch_labels, without
from ocl.shapes import IGNORE


def loop(segmentation: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels (N) and purity (N) of one image whose sides are multiples of the grid."""
    down, across = segmentation.shape[0] // grid[0], segmentation.shape[1] // grid[1]
    labels, purity = [], []
    for row in range(grid[0]):
        for column in range(grid[1]):
            cell = segmentation[row * down : (row + 1) * down, column * across : (column + 1) * across]
            values, counts = np.unique(cell.numpy(), return_counts=True)
            labels.append(int(values[counts.argmax()]))  # the first, hence lowest, of several
            purity.append(counts.max() / cell.numel())
    return torch.tensor(labels), torch.tensor(purity, dtype=torch.float32)


def test_hand_image() -> None:
    image = torch.tensor([[[1, 1, 2, 3], [1, 0, 3, 2], [5, 5, -1, -1], [4, 4, -1, 65_535]]])
    found = patch_labels(image, (2, 2))
    assert found.labels.tolist() == [[1, 2, 4, IGNORE]]  # two ties: the lower
    assert found.purity.tolist() == [[0.75, 0.5, 0.5, 0.75]]
    assert patch_labels(image, (2, 2), purity=0.75).labels.tolist() == [[1, IGNORE, IGNORE, IGNORE]]
    # Two of four pixels to be ignored tie with the other label, and the patch is unknown.
    assert patch_labels(image, (2, 2), ignore={4, 1}).labels.tolist() == [[IGNORE, 2, IGNORE, IGNORE]]
    assert patch_labels(image, (4, 4)).labels.tolist() == [image.flatten().tolist()]
    assert (patch_labels(image, (4, 4)).purity == 1).all()


@pytest.mark.parametrize("grid", [(14, 14), (7, 20), (1, 5), (16, 1)])
def test_agrees_with_a_loop_over_patches(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(grid))
    images = torch.from_numpy(rng.integers(-1, 4, size=(4, grid[0] * 6, grid[1] * 5)))
    found = patch_labels(images, grid)
    for image, labels, purity in zip(images, found.labels, found.purity, strict=True):
        expected = loop(image, grid)
        assert torch.equal(labels, expected[0])
        torch.testing.assert_close(purity, expected[1])


def test_the_grid_is_in_raster_order() -> None:
    for grid in ((3, 7), (7, 3), (16, 16)):
        numbers = torch.arange(grid[0] * grid[1]).view(grid)
        image = numbers.repeat_interleave(4, 0).repeat_interleave(6, 1)[None]
        assert torch.equal(patch_labels(image, grid).labels, numbers.view(1, -1))


@pytest.mark.parametrize(("size", "grid"), [((37, 50), (14, 14)), ((224, 333), (16, 24)), ((9, 9), (12, 10))])
def test_sides_that_are_no_multiples_are_resized_without_new_labels(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    cells = rng.choice([3, 900, 60_000], size=(-(-size[0] // 8), -(-size[1] // 8)))
    image = torch.from_numpy(cells.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]])[None]
    found = patch_labels(image, grid).labels
    assert set(found.unique().tolist()) <= {3, 900, 60_000}
    # The next multiples, with the label at the centre of every new pixel.
    wanted = [-(-side // cells) * cells for side, cells in zip(size, grid, strict=True)]
    rows, columns = ((np.arange(new) + 0.5) * old / new for new, old in zip(wanted, size, strict=True))
    expected = loop(image[0][np.ix_(rows.astype(int), columns.astype(int))], grid)[0]
    assert torch.equal(found[0], expected)


def test_a_uniform_image_has_one_label_on_any_grid() -> None:
    for grid in ((1, 1), (5, 3), (37, 53)):
        found = patch_labels(torch.full((2, 31, 47), 7), grid)
        assert (found.labels == 7).all()
        assert (found.purity == 1).all()


def test_several_annotators_are_labelled_one_by_one() -> None:
    people = torch.randint(0, 5, (2, 3, 33, 20))
    found = patch_labels(people, (4, 5), purity=0.3)
    assert found.labels.shape == found.purity.shape == (2, 3, 20)
    for person in range(3):
        assert torch.equal(found.labels[:, person], patch_labels(people[:, person], (4, 5), purity=0.3).labels)


def test_objects_to_leave_out_differ_by_image() -> None:
    segmentation = torch.tensor([[[0, 1], [2, IGNORE]], [[0, 1], [2, 2]]])
    objects = torch.tensor([[True, False], [False, True]])
    expected = torch.tensor([[[0, IGNORE], [2, IGNORE]], [[0, 1], [IGNORE, IGNORE]]])
    assert torch.equal(without(segmentation, objects), expected)
    with pytest.raises(ValueError, match="shows object 2 of 1"):
        without(segmentation, objects[:, :1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64])
def test_any_kind_of_integers_will_do(dtype: torch.dtype) -> None:
    labels = torch.tensor([[200, 200, 0, 7], [200, 1, 7, 7]])
    assert patch_labels(labels.to(dtype), (1, 2)).labels.tolist() == [200, 7]
    assert patch_labels(torch.tensor([[65_535]]).to(torch.uint16), (1, 1)).labels.item() == 65_535
    with pytest.raises(ValueError, match="got 70000 to 70000; number them anew"):
        patch_labels(torch.tensor([[70_000]]).to(torch.uint32), (1, 1))


def test_bad_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must be 0 to 65,535, or -1 for unknown, got 0 to 65536"):
        patch_labels(torch.tensor([[[0, 65_536]]]), (1, 1))
    with pytest.raises(ValueError, match="got -2 to 0"):
        patch_labels(torch.tensor([[[0, -2]]]), (1, 1))
    for wrong in (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)):
        with pytest.raises(TypeError, match="segmentations are integers"):
            patch_labels(wrong, (2, 2))
    for shape, grid in (((4,), (2, 2)), ((1, 0, 4), (2, 2)), ((1, 4, 4), (0, 2))):
        with pytest.raises(ValueError, match=r"needs \(\.\.\., H, W\) and a grid"):
            patch_labels(torch.zeros(shape, dtype=torch.long), grid)
    with pytest.raises(ValueError, match="purity is a share"):
        patch_labels(torch.zeros(1, 4, 4, dtype=torch.long), (2, 2), purity=1.5)

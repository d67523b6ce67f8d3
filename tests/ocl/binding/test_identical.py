"""Copies of objects are found by their pixels, and only copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ocl.binding.identical import identical_patches

GRID, PATCH = (6, 8), 4


def scene(objects: dict[int, list[int]], contents: Tensor) -> tuple[Tensor, Tensor]:
    """Object -> the patches that it covers, in the order of the contents (C 3 p p); noise elsewhere."""
    cells = torch.randint(256, (GRID[0] * GRID[1], 3, PATCH, PATCH), dtype=torch.uint8)
    labels = torch.full((GRID[0] * GRID[1],), -1)
    for name, patches in objects.items():
        cells[patches], labels[patches] = contents[: len(patches)], name
    image = cells.view(*GRID, 3, PATCH, PATCH).permute(2, 0, 3, 1, 4).reshape(3, GRID[0] * PATCH, GRID[1] * PATCH)
    return image, labels


def test_copies_are_found_patch_by_patch() -> None:
    contents = torch.randint(256, (4, 3, PATCH, PATCH), dtype=torch.uint8)
    image, labels = scene({3: [0, 1, 8, 9], 5: [5, 6, 13, 14], 9: [34, 35, 42, 43]}, contents)
    labels[[20, 21, 22]] = 7  # an object unlike the others
    found = identical_patches(image, labels, GRID)
    assert found is not None
    assert sorted(map(sorted, found.tolist())) == [[0, 1, 8, 9], [5, 6, 13, 14], [34, 35, 42, 43]]
    assert {tuple(column) for column in found.mT.tolist()} == {(0, 5, 34), (1, 6, 35), (8, 13, 42), (9, 14, 43)}
    assert torch.equal(identical_patches(image.float() / 255, labels, GRID), found)


def test_what_is_hidden_or_repeated_is_left_out() -> None:
    contents = torch.randint(256, (4, 3, PATCH, PATCH), dtype=torch.uint8)
    objects = {1: [0, 1, 8, 9], 2: [4, 5, 12, 13], 3: [32, 33, 40, 41]}
    image, labels = scene(objects, contents)
    labels[33] = -1  # partly behind something
    found = identical_patches(image, labels, GRID)
    assert found is not None
    assert {tuple(column) for column in found.mT.tolist()} == {(0, 4, 32), (8, 12, 40), (9, 13, 41)}
    contents[2] = contents[3]  # which of the two is whose?
    image, labels = scene(objects, contents)
    found = identical_patches(image, labels, GRID)
    assert found is not None
    assert {tuple(column) for column in found.mT.tolist()} == {(0, 4, 32), (1, 5, 33)}
    assert identical_patches(image, labels, GRID, copies=4) is None
    assert identical_patches(image, labels, GRID, patches=3) is None
    assert identical_patches(image, labels * 0 - 1, GRID) is None


def test_another_grid_is_refused() -> None:
    image, labels = scene({1: [0]}, torch.zeros(1, 3, PATCH, PATCH, dtype=torch.uint8))
    for wrong in ((5, 8), (3, 8)):
        with pytest.raises(ValueError, match=r"needs images whose sides are multiples of the grid"):
            identical_patches(image, labels, wrong)

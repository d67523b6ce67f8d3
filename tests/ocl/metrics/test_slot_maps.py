"""Measures of slot maps against closed forms and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from ocl.metrics.slot_maps import (
    SLOT_MAP_MEASURES,
    active_slots,
    components_per_slot,
    duplicate_pairs,
    salt_and_pepper,
    slot_map_measures,
)


def random_labels(least: int = -1) -> torch.Tensor:
    return torch.randint(least, 5, (4, 17, 23), generator=torch.Generator().manual_seed(0))


def test_components_closed_forms() -> None:
    stripes = (torch.arange(8) % 2).expand(1, 8, 8)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    whole = torch.zeros(1, 8, 8, dtype=torch.long)
    diagonal = torch.eye(8, dtype=torch.long)[None]
    found = components_per_slot(torch.cat([whole, stripes, board[None], diagonal])).values
    assert found.tolist() == [1, 4, 32, (8 + 2) / 2]  # corners do not connect


def test_components_equal_those_of_scipy() -> None:
    labels = random_labels()
    found = components_per_slot(labels)
    for image, value in zip(labels.numpy(), found.values.tolist(), strict=True):
        slots = [slot for slot in np.unique(image) if slot >= 0]
        assert value == pytest.approx(np.mean([ndimage.label(image == slot)[1] for slot in slots]))
    nothing = components_per_slot(torch.full((2, 3, 3), -1))
    assert not nothing.counted.any()
    assert nothing.values.tolist() == [0, 0]


def test_stray_pixels_closed_forms() -> None:
    plain = torch.zeros(9, 9, dtype=torch.long)
    stray, edge, square = plain.clone(), plain.clone(), plain.clone()
    stray[4, 4] = 1
    edge[:, 5:] = 1
    square[2:6, 2:6] = 1
    found = salt_and_pepper(torch.stack([plain, stray, edge, square])).values * 81
    assert found.tolist() == pytest.approx([0, 1, 0, 4])


def test_stray_pixels_equal_those_of_a_loop() -> None:
    labels = random_labels()
    for image, value in zip(labels.numpy(), salt_and_pepper(labels).values.tolist(), strict=True):
        strays = 0
        for y, x in np.ndindex(image.shape):
            window = image[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
            strays += max(np.unique(window, return_counts=True)[1]) > (window == image[y, x]).sum()
        assert value == pytest.approx(strays / image.size)


def test_active_slots_hold_more_than_half_an_even_share() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.5, 0.376, 0.124, 0.0]])
    maps = shares[:, :, None, None].expand(3, 4, 6, 5)
    assert active_slots(maps).values.tolist() == [4, 1, 2]  # the bound is 1/8
    valid = torch.tensor([[True, True, True, False], [False, True, True, True], [True, True, True, False]])
    assert active_slots(maps, valid).values.tolist() == [3, 0, 2]  # the bound is 1/6


def test_duplicates_are_pairs_of_almost_parallel_maps() -> None:
    first = torch.zeros(4, 4)
    first[:2] = 1.0
    second = 1 - first
    maps = torch.stack([first / 2, first / 2, second / 2, second / 2])[None]
    assert float(duplicate_pairs(maps).values) == pytest.approx(2 / 6)
    valid = torch.tensor([[True, False, True, True]])
    assert float(duplicate_pairs(maps, valid).values) == pytest.approx(1 / 3)
    assert not duplicate_pairs(maps[:, :1]).counted
    angle = torch.tensor([0.0, 0.44, 0.46])  # cos 0.44 = 0.905, cos 0.46 = 0.896
    turned = torch.stack([angle.cos(), angle.sin()], dim=-1)[None, :, None]
    assert float(duplicate_pairs(turned).values) == pytest.approx(2 / 3)  # first and second, second and third


def test_all_by_name() -> None:
    maps = torch.rand(3, 5, 8, 8).softmax(1)
    found = slot_map_measures(maps)
    assert tuple(found) == SLOT_MAP_MEASURES
    assert torch.equal(found["components"].values, components_per_slot(maps.argmax(1)).values)
    assert torch.equal(found["salt_and_pepper"].values, salt_and_pepper(maps.argmax(1)).values)

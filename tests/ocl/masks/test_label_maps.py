"""Label maps into stacks and back: identities, and painting against a loop that paints one mask after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ocl.masks.base import Masks
from ocl.masks.label_maps import paint, segment_ids, to_masks
from ocl.shapes import IGNORE


def maps(seed: int, images: int, lowest: int, highest: int) -> Tensor:
    return torch.randint(lowest, highest + 1, (images, 7, 9), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 4), st.sampled_from([0, 1, 5, 300, 65535]))
def test_a_partition_comes_back(seed: int, images: int, highest: int) -> None:
    labels = maps(seed, images, 0, highest)
    assert torch.equal(paint(to_masks(labels), segment_ids(labels)), labels)
    ignored = maps(seed, images, IGNORE, highest)
    back = paint(to_masks(ignored, zero=True), segment_ids(ignored, zero=True), unclaimed=IGNORE)
    assert torch.equal(back, ignored)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 3), st.integers(0, 6))
def test_painting_is_painting_in_ascending_order(seed: int, images: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = Masks.of(
        torch.rand(images, count, 5, 6, generator=generator) > 0.6, torch.rand(images, count, generator=generator)
    )
    expected = torch.zeros(images, 5, 6, dtype=torch.int64)
    for image in range(images):
        for k in masks.scores[image].argsort().tolist():
            expected[image][masks.masks[image, k]] = k + 1
    assert torch.equal(paint(masks), expected)


def test_a_tie_goes_to_the_lowest_index_and_invalid_masks_are_not_painted() -> None:
    masks = Masks.of(torch.ones(1, 3, 2, 2, dtype=torch.bool), torch.tensor([[0.2, 0.7, 0.7]]))
    assert paint(masks).eq(2).all()
    masks.valid[0, 1] = False
    assert paint(masks).eq(3).all()
    assert paint(masks, torch.tensor([[7, 8, 9]])).eq(9).all()


def test_zero_is_a_candidate_or_nothing() -> None:
    labels = torch.tensor([[[0, 0, 4], [9, 9, IGNORE]], [[2, 2, 2], [2, 2, 2]]])
    assert segment_ids(labels).tolist() == [[4, 9], [2, IGNORE]]
    assert segment_ids(labels, zero=True).tolist() == [[0, 4, 9], [2, IGNORE, IGNORE]]
    masks = to_masks(labels, zero=True)
    assert masks.valid.tolist() == [[True, True, True], [True, False, False]]
    assert masks.masks.sum((2, 3)).tolist() == [[2, 1, 2], [6, 0, 0]]
    assert masks.scores.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert to_masks(labels).masks[0, 0].tolist() == [[False, False, True], [False, False, False]]


def test_nothing_to_find() -> None:
    nothing = to_masks(torch.zeros(2, 3, 4, dtype=torch.int32))
    assert nothing.masks.shape == (2, 0, 3, 4)
    assert torch.equal(paint(nothing), torch.zeros(2, 3, 4, dtype=torch.int64))
    assert to_masks(torch.full((1, 3, 4), IGNORE), zero=True).masks.shape == (1, 0, 3, 4)
    assert to_masks(torch.zeros(0, 3, 4, dtype=torch.int64)).masks.shape == (0, 0, 3, 4)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be in -1\.\.65535, got 0\.\.65536"):
        to_masks(torch.tensor([[[0, 65536]]]))
    with pytest.raises(ValueError, match="got -2"):
        to_masks(torch.tensor([[[0, -2]]]))
    with pytest.raises(ValueError, match=r"\(B, H, W\) integer"):
        to_masks(torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="Only hard masks"):
        paint(Masks.of(torch.rand(1, 2, 3, 3)))
    with pytest.raises(ValueError, match=r"ids must be \(1, 2\)"):
        paint(Masks.of(torch.ones(1, 2, 3, 3, dtype=torch.bool)), torch.zeros(1, 3))


def test_scores_that_are_nan_are_refused() -> None:
    """Sorted above all numbers, they would win every pixel and every place among the best."""
    with pytest.raises(ValueError, match="scores that are NaN"):
        Masks.of(torch.ones(1, 2, 3, 3, dtype=torch.bool), torch.tensor([[torch.nan, 0.5]]))

"""Transitions of the walks between slots and features, and the measures read from them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ocl.losses.walk_measures import object_return, slot_return
from ocl.losses.walks import AttentionProjections, Walk
from ocl.shapes import IGNORE, Batch, Decoded, Features, Output, Slots

NO_BATCH = Batch(torch.zeros(1, 3, 2, 2))


def output_of(slots: Tensor, tokens: Tensor, grid: tuple[int, int], masks: Tensor | None = None) -> Output:
    features = Features(tokens, grid)
    nothing = Decoded(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1, 1))
    return Output(features, features, slots, Slots.of(slots, masks), nothing)


def of_batches(images: int, slots: int, grid: tuple[int, int], dim: int = 8) -> Output:
    number = grid[0] * grid[1]
    return output_of(
        torch.randn(images, slots, dim, dtype=torch.float64),
        torch.randn(images, number, dim, dtype=torch.float64),
        grid,
    )


def test_rows_sum_to_one() -> None:
    walk = Walk()(of_batches(3, 5, (4, 6)), NO_BATCH)
    there, back = walk.to_features, walk.to_slots.mT  # A (B K N), B (B N K)
    for matrix in (there, back, there @ back, back @ there):
        torch.testing.assert_close(matrix.sum(dim=2), torch.ones_like(matrix[..., 0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cosines_and_their_gradients_are_those_of_normalised_vectors(dtype: torch.dtype) -> None:
    slots = torch.randn(2, 3, 8, dtype=dtype, requires_grad=True)
    tokens = torch.randn(2, 10, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 3, 10, dtype=dtype)
    found = Walk()._similarity(slots, tokens)
    cosine = (slots / slots.norm(dim=-1, keepdim=True)) @ (tokens / tokens.norm(dim=-1, keepdim=True)).mT
    torch.testing.assert_close(found, cosine)
    ours = torch.autograd.grad((found * weight).sum(), [slots, tokens])
    theirs = torch.autograd.grad((cosine * weight).sum(), [slots, tokens])
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_zero_token_has_cosine_zero_and_no_gradient() -> None:
    tokens = torch.randn(1, 4, 8)
    tokens[0, 2] = 0
    cosine = Walk()._similarity(torch.randn(1, 3, 8), tokens.requires_grad_())
    cosine.sum().backward()
    assert (cosine[0, :, 2] == 0).all()
    assert tokens.grad is not None
    assert (tokens.grad[0, 2] == 0).all()
    assert tokens.grad[0, 1].norm() > 0


def test_slots_that_are_not_valid_take_no_part() -> None:
    output = of_batches(2, 5, (3, 4))
    output.slots.valid[:, 3:] = False
    walk = Walk()(output, NO_BATCH)
    fewer = output_of(output.slots.vectors[:, :3], output.tokens.tokens, (3, 4))
    expected = Walk()(fewer, NO_BATCH)
    assert (walk.to_slots[:, 3:] == 0).all()
    torch.testing.assert_close(walk.to_slots[:, :3], expected.to_slots)
    torch.testing.assert_close(slot_return(output, NO_BATCH), slot_return(fewer, NO_BATCH))


def test_active_slots_hold_more_than_half_an_even_share() -> None:
    """Shares 0.6, 0.26, 0.13, 0.01 of the attention; half of an even share is 0.125."""
    shares = torch.tensor([0.6, 0.26, 0.13, 0.01])
    masks = shares.view(1, 4, 1, 1).expand(1, 4, 3, 4)
    output = of_batches(1, 4, (3, 4))
    output.slots.masks = masks
    assert Walk(active_only=True)(output, NO_BATCH).kept.tolist() == [[True, True, True, False]]
    output.slots.valid[0, 0] = False  # of three slots half an even share is 1/6
    assert Walk(active_only=True)(output, NO_BATCH).kept.tolist() == [[False, True, False, False]]


def test_bad_arguments_are_named() -> None:
    output = of_batches(1, 2, (1, 3))
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        Walk(temperature=0)
    with pytest.raises(ValueError, match="gives none"):
        Walk(active_only=True)(output, NO_BATCH)
    with pytest.raises(ValueError, match="attach"):
        Walk(detach_features=True)(output, NO_BATCH)
    with pytest.raises(ValueError, match="attach"):
        Walk(embedding=AttentionProjections())(output, NO_BATCH)
    with pytest.raises(ValueError, match="true segmentation"):
        object_return(output, NO_BATCH)


def scene() -> tuple[Output, Batch]:
    """4 x 6 tokens: left third object 1, the rest background; true labels at twice that size, one column off by one
    pixel, so that a majority of each cell still has the right label. One slot each."""
    axes = torch.eye(4, dtype=torch.float64)
    tokens = axes[:1].expand(4, 6, 4).clone()
    tokens[:, :2] = axes[1]
    segmentation = torch.zeros(1, 8, 12, dtype=torch.int64)
    segmentation[:, :, :4] = 1
    segmentation[0, 0, 4] = 1
    output = output_of(axes[None, :2], tokens.view(1, 24, 4), (4, 6))
    return output, Batch(torch.zeros(1, 3, 8, 12), segmentation)


def test_measures_have_a_closed_form() -> None:
    """A feature steps to its slot with p = 1 / (1 + exp(-10)); the object's slot steps home with 8 e / (8 e + 16)."""
    output, batch = scene()
    e = math.exp(10)
    p = e / (e + 1)
    home_object, home_ground = 8 * e / (8 * e + 16), 16 * e / (16 * e + 8)
    slot = (home_ground * p + (1 - home_ground) * (1 - p) + home_object * p + (1 - home_object) * (1 - p)) / 2
    assert slot_return(output, batch).item() == pytest.approx(slot, abs=1e-12)
    of_object = p * home_object + (1 - p) * (1 - home_ground)
    of_ground = p * home_ground + (1 - p) * (1 - home_object)
    assert object_return(output, batch).item() == pytest.approx((8 * of_object + 16 * of_ground) / 24, abs=1e-12)


def test_a_model_that_merges_returns_by_chance() -> None:
    """With equal slots a walk ends anywhere: in the object 8 times of 24, on the ground 16 times."""
    output, batch = scene()
    output.slots.vectors = torch.ones(1, 2, 4, dtype=torch.float64)
    assert slot_return(output, batch).item() == pytest.approx(0.5, abs=1e-12)
    assert object_return(output, batch).item() == pytest.approx((8 * 8 + 16 * 16) / 24**2, abs=1e-12)


def test_unknown_labels_are_no_starts_and_no_homes() -> None:
    output, batch = scene()
    assert batch.segmentation is not None
    batch.segmentation[:, :, 4:] = IGNORE
    output.slots.vectors = torch.ones(1, 2, 4, dtype=torch.float64)
    assert object_return(output, batch).item() == pytest.approx(8 / 24, abs=1e-12)
    batch.segmentation[:] = IGNORE
    assert object_return(output, batch).isnan().all()

"""The point loss in closed form, at no labels, and in validation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ocl.losses.points import PointLoss
from ocl.shapes import Batch, Decoded, Features, Output, Slots


def output_of(points: Tensor | None, match: Tensor | None = None) -> Output:
    """An output whose slots left these points (B T K 2) and matches (B T K)."""
    shape = (2, 4) if points is None else (points.shape[0], points.shape[2])
    slots, features = Slots.of(torch.zeros(*shape, 8)), Features(torch.zeros(shape[0], 1, 8), (1, 1))
    slots.notes = {n: v for n, v in (("points", points), ("point_match", match)) if v is not None}
    decoded = Decoded(torch.zeros(shape[0], 3, 4, 4), torch.ones(*shape, 1, 1))
    return Output(features, features, slots.vectors, slots, decoded)


def batch_of(places: Tensor, known: Tensor) -> Batch:
    return Batch(torch.zeros(len(places), 3, 4, 4), objects={"points": places, "point_known": known})


def example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two iterations, K = 4; the first image has two of three points, the second none."""
    places = torch.tensor([[[0.1, 0.1], [0.9, 0.5], [0.3, 0.7]], [[0.5, 0.5]] * 3])
    known = torch.tensor([[True, False, True], [False] * 3])
    points = torch.full((2, 2, 4, 2), 0.95)  # far from both
    points[0, :, 1] = torch.tensor([[0.2, 0.1], [0.1, 0.1]])  # 0.1 off, then exact
    points[0, :, 3] = torch.tensor([[0.3, 0.4], [0.3, 0.5]])  # 0.3 off, then 0.2
    match = torch.tensor([[-1, 0, -1, 2], [-1] * 4])[:, None].expand(2, 2, 4)
    return points, places, known, match


def test_closed_form() -> None:
    """(0.01 + 0.09 + 0.04) / (1 labelled image x 4 slots x 2); over matched slots alone / (2 x 2)."""
    points, places, known, match = example()
    arguments = output_of(points, match), batch_of(places, known)
    assert math.isclose(PointLoss()(*arguments).item(), 0.14 / 8, rel_tol=1e-6)
    assert math.isclose(PointLoss(matched_only=True)(*arguments).item(), 0.14 / 4, rel_tol=1e-6)


def test_validation_matches_the_first_points_and_keeps_that() -> None:
    points, places, known, match = example()
    for loss in (PointLoss(), PointLoss(matched_only=True)):
        expected = loss(output_of(points, match), batch_of(places, known))
        torch.testing.assert_close(loss(output_of(points), batch_of(places, known)), expected, rtol=0, atol=0)
    swapped = points.clone()
    swapped[0, 1, 1], swapped[0, 1, 3] = points[0, 1, 3], points[0, 1, 1]  # slots change places after the first
    found = PointLoss()(output_of(swapped), batch_of(places, known))
    first, second = 0.01 + 0.09, (0.2**2 + 0.4**2) + (0.2**2 + 0.6**2)
    assert math.isclose(found.item(), (first + second) / 8, rel_tol=1e-6)


@pytest.mark.parametrize("filler", [0.0, -1.5, torch.nan])
def test_unknown_objects_count_nowhere(filler: float) -> None:
    points, places, known, match = example()
    expected = PointLoss()(output_of(points), batch_of(places, known))
    hidden = places.masked_fill(~known[..., None], filler)
    for given in (None, match):
        learned = points.clone().requires_grad_()
        loss = PointLoss()(output_of(learned, given), batch_of(hidden, known))
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        (gradient,) = torch.autograd.grad(loss, [learned])
        assert torch.isfinite(gradient).all()
        assert gradient[1].abs().max() == 0
        torch.testing.assert_close(gradient[0, 0, 3], torch.tensor([0.0, 2 * -0.3 / 8]))


@pytest.mark.parametrize("objects", [0, 3])
def test_without_labels_it_is_exactly_zero(objects: int) -> None:
    points = torch.rand(2, 3, 4, 2, requires_grad=True)
    empty = batch_of(torch.zeros(2, objects, 2), torch.zeros(2, objects, dtype=torch.bool))
    for loss in (PointLoss(), PointLoss(matched_only=True)):
        found = loss(output_of(points), empty)
        assert found.item() == 0
        (gradient,) = torch.autograd.grad(found, [points])
        assert gradient.abs().max() == 0
        bare = Batch(torch.zeros(2, 3, 4, 4))
        with pytest.raises(ValueError, match="training batch without points"):
            loss(output_of(points), bare)
        assert loss.eval()(output_of(points), bare).item() == 0


def test_a_grouping_without_points_is_named() -> None:
    _, places, known, _ = example()
    with pytest.raises(ValueError, match="give SlotAttention a PointGuidance"):
        PointLoss()(output_of(None), batch_of(places, known))

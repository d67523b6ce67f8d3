"""Point guidance: where points enter, where gradients may pass, and that labels are nothing at inference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ocl.losses.points import PointLoss
from ocl.shapes import Batch, Decoded, Features, Hints, Output, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.point_guidance import PointGuidance, PointTrace
from ocl.slots.refining import AttentionRefiningKernel

GRID, COUNT, DIM = (6, 7), 5, 16


def scene(labelled: int = 2, batch: int = 4, objects: int = 3) -> tuple[Features, Tensor, Hints]:
    """Tokens and starts that ask for gradients; the first `labelled` images have points, all of them known."""
    tokens = torch.randn(batch, GRID[0] * GRID[1], DIM, requires_grad=True)
    starts = torch.randn(batch, COUNT, DIM, requires_grad=True)
    known = torch.zeros(batch, objects, dtype=torch.bool)
    known[:labelled] = True
    return Features(tokens, GRID), starts, Hints(torch.rand(batch, objects, 2), known)


def output_of(slots: Slots, features: Features, starts: Tensor, hints: Hints) -> tuple[Output, Batch]:
    assert slots.masks is not None
    decoded = Decoded(torch.zeros(len(starts), 3, 8, 8), slots.masks)
    batch = Batch(torch.zeros(len(starts), 3, 8, 8), objects={"points": hints.places, "point_known": hints.known})
    return Output(features, features, starts, slots, decoded), batch


def test_a_silent_encoder_is_the_base_model_bit_for_bit() -> None:
    module = SlotAttention(DIM, points=PointGuidance(DIM))
    base = SlotAttention(DIM)
    base.load_state_dict(module.state_dict(), strict=False)
    torch.nn.init.zeros_(module.points.encoder[-1].weight)
    features, starts, hints = scene()
    guided, plain = module(features, starts, hints=hints), base(features, starts)
    assert torch.equal(guided.vectors, plain.vectors)
    assert torch.equal(guided.masks, plain.masks)


def test_slots_move_by_the_code_of_their_point() -> None:
    """In (0, 1), centred before it is encoded; the true point stands in for the predicted one where one is matched."""
    guidance = PointGuidance(DIM)
    slots, hints = 5 * torch.randn(4, COUNT, DIM), scene()[2]
    trace = PointTrace(hints)
    found = guidance(slots, trace)
    points, match = trace.points[0], trace.matches[0]
    assert points.min() > 0
    assert points.max() < 1
    used = points.clone()
    for image, slot in (match >= 0).nonzero().tolist():
        used[image, slot] = hints.places[image, match[image, slot]]
    assert (match >= 0).sum(dim=1).tolist() == [3, 3, 0, 0]
    assert torch.equal(found, slots + guidance.encoder(used - 0.5))
    widths = [layer.weight.shape for layer in (*guidance.predictor[::2], *guidance.encoder[::2])]
    assert widths == [(8, 16), (4, 8), (2, 4), (4, 2), (8, 4), (16, 8)]


def gradients_of(loss: Tensor, module: SlotAttention, features: Features, starts: Tensor) -> dict[str, float]:
    inside = {"tokens": features.tokens, "starts": starts, "predictor": module.points.predictor[0].weight}
    found = torch.autograd.grad(
        loss, list(inside.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return {name: float(value.abs().max()) for name, value in zip(inside, found, strict=True)}


@pytest.mark.parametrize("labelled", [4, 2])
def test_what_teaches_the_predictor(labelled: int) -> None:
    """Whatever reads the slots reaches it where there is no true point; points reach it where there is one, also if
    every image is labelled."""
    module = SlotAttention(DIM, points=PointGuidance(DIM))
    features, starts, hints = scene(labelled, objects=COUNT)  # every slot of a labelled image is matched
    slots = module(features, starts, hints=hints)
    assert (slots.notes["point_match"][:labelled] >= 0).all()

    through_slots = gradients_of(slots.vectors[:labelled].square().sum(), module, features, starts)
    assert through_slots["predictor"] == 0
    assert through_slots["tokens"] > 0
    of_points = gradients_of(PointLoss()(*output_of(slots, features, starts, hints)), module, features, starts)
    assert all(value > 0 for value in of_points.values()), of_points
    if labelled < 4:
        assert gradients_of(slots.vectors[labelled:].square().sum(), module, features, starts)["predictor"] > 0


@pytest.mark.parametrize("rematch", [False, True])
def test_order_of_objects_and_of_slots_is_nothing(rematch: bool) -> None:
    module = SlotAttention(DIM, iterations=4, points=PointGuidance(DIM, rematch)).double()
    features, starts, hints = scene(labelled=3)
    features, starts = Features(features.tokens.double(), GRID), starts.double()
    slots = module(features, starts, hints=hints)
    objects, order = torch.randperm(3), torch.randperm(COUNT)
    turned = module(features, starts[:, order], hints=Hints(hints.places[:, objects], hints.known[:, objects]))
    torch.testing.assert_close(turned.vectors, slots.vectors[:, order])
    torch.testing.assert_close(turned.notes["points"], slots.notes["points"][:, :, order])
    match, turned_match = slots.notes["point_match"][:, :, order], turned.notes["point_match"]
    original = torch.where(turned_match >= 0, objects[turned_match.clamp(min=0)], -1)
    assert torch.equal(original, match)
    assert rematch or (slots.notes["point_match"] == slots.notes["point_match"][:, :1]).all()


def test_matching_anew_follows_the_points() -> None:
    module = SlotAttention(DIM, iterations=4, points=PointGuidance(DIM, rematch=True))
    features, starts, hints = scene(labelled=64, batch=64)
    match = module(features, starts, hints=hints).notes["point_match"]
    assert (match != match[:, :1]).any()


@pytest.mark.parametrize("gradient", ["full", "implicit", "bilevel"])
def test_labels_are_nothing_at_inference(gradient: Any) -> None:
    """Not even impossible ones; in training they matter."""
    module = SlotAttention(DIM, gradient=gradient, kernel=AttentionRefiningKernel(), points=PointGuidance(DIM))
    features, starts, hints = scene(labelled=4)
    taught, untaught = module(features, starts, hints=hints), module(features, starts)
    assert (taught.vectors - untaught.vectors).abs().max() > 1e-3
    module.eval()
    without = module(features, starts)
    for given in (hints, Hints(torch.full_like(hints.places, torch.nan), hints.known)):
        found = module(features, starts, hints=given)
        assert torch.equal(found.vectors, without.vectors)
        assert torch.equal(found.masks, without.masks)
        assert found.notes.keys() == {"points"}
        assert torch.equal(found.notes["points"], without.notes["points"])
    assert torch.equal(without.vectors, module(features, starts).vectors)  # nothing is drawn
    assert module(features, torch.randn(4, 9, DIM)).notes["points"].shape == (4, 3, 9, 2)  # another K


def test_places_of_unknown_objects_may_hold_anything() -> None:
    """They are cut out: they decide no match and no value, and no gradient is NaN."""
    module = SlotAttention(DIM, points=PointGuidance(DIM))
    features, starts, hints = scene(labelled=3)
    hints.known[0, 1] = False
    results = []
    for filler in (0.5, -1.0, torch.nan, torch.inf):
        places = hints.places.masked_fill(~hints.known[..., None], filler)
        slots = module(features, starts, hints=Hints(places, hints.known))
        assert not (slots.notes["point_match"][0] == 1).any()
        loss = slots.vectors.square().sum() + PointLoss()(
            *output_of(slots, features, starts, Hints(places, hints.known))
        )
        parts = [features.tokens, starts, *module.parameters()]
        results.append([loss.detach(), *torch.autograd.grad(loss, parts)])
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one, same)


def test_images_without_labels_are_as_without_hints() -> None:
    """Also with more objects than slots, and with no object at all."""
    module = SlotAttention(DIM, points=PointGuidance(DIM))
    features, starts, _ = scene()
    plain = module(features, starts)
    for objects in (0, 3, 9):
        places, known = torch.zeros(4, objects, 2), torch.zeros(4, objects, dtype=torch.bool)
        found = module(features, starts, hints=Hints(places, known))
        assert torch.equal(found.vectors, plain.vectors)
        assert (found.notes["point_match"] == -1).all()
    crowded = module(features, starts, hints=Hints(torch.rand(4, 9, 2), torch.ones(4, 9, dtype=torch.bool)))
    assert (crowded.notes["point_match"] >= 0).all()


def test_truncated_gradients_leave_points_of_the_last_iteration_alone_to_learn() -> None:
    module = SlotAttention(DIM, gradient="implicit", points=PointGuidance(DIM))
    features, starts, hints = scene()
    points = module(features, starts, hints=hints).notes["points"]
    for step, expected in enumerate((False, False, True)):
        (gradient,) = torch.autograd.grad(
            points[:, step].sum(), [module.points.predictor[-1].weight], retain_graph=True
        )
        assert bool(gradient.abs().max() > 0) is expected


def test_bad_points_are_named() -> None:
    module = SlotAttention(DIM, points=PointGuidance(DIM))
    features, starts, hints = scene()
    outside = hints.places.clone()
    outside[1, 2] = torch.tensor([0.5, 1.25])
    with pytest.raises(ValueError, match="place 2 of image 1 is known but lies at"):
        module(features, starts, hints=Hints(outside, hints.known))
    with pytest.raises(ValueError, match=r"places must be \(4, M, 2\)"):
        module(features, starts, hints=Hints(torch.rand(4, 3, 4), hints.known))
    with pytest.raises(ValueError, match="known must be bool"):
        module(features, starts, hints=Hints(hints.places, hints.known.float()))
    with pytest.raises(ValueError, match="width 4"):
        PointGuidance(2)

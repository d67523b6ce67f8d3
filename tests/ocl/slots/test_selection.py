"""AdaSlot's selection: the law of its draw, its gradient, and what dropped slots are to decoders, losses and stores."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.preheat import PreheatLoss
from ocl.losses.sparsity import KeepCost
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel
from ocl.shapes import Batch, Features, Output, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.slots.selection import SlotSelection


class Margins(nn.Module):
    """A network whose logits of keeping, above those of dropping, are the first entry of a slot."""

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.stack([torch.full_like(vectors[..., 0], 3.0), vectors[..., 0] + 3], dim=-1)


def selecting(temperature: float = 1.0) -> SlotSelection:
    selection = SlotSelection(4, temperature=temperature)
    selection.network = Margins()
    return selection


def slots_with(margins: Tensor) -> Slots:
    return Slots.of(
        torch.cat([margins[..., None], torch.randn(*margins.shape, 3)], dim=-1), torch.rand(*margins.shape, 2, 2)
    )


def test_a_slot_is_kept_with_the_softmax_probability_of_its_logits() -> None:
    margins = torch.tensor([-1.5, 0.0, 0.8, 30.0]).expand(20_000, 4)
    selected = selecting()(slots_with(margins))
    probability = margins[0].sigmoid()
    spread = (probability * (1 - probability) / len(margins)).sqrt() + 1e-9
    assert ((selected.notes["keep"].mean(dim=0) - probability).abs() < 5 * spread).all()
    torch.testing.assert_close(selected.notes["keep_probability"], margins.sigmoid())
    assert torch.equal(selected.notes["keep"] == 1, selected.valid)
    assert torch.equal(selected.notes["keep"] == 0, ~selected.valid)  # exactly 0 or 1


def test_the_gradient_is_that_of_the_soft_draw() -> None:
    """With the same draw u: y = sigmoid((margin + log(u / (1 - u))) / temperature), dy/dmargin = y (1 - y) / t."""
    margins = torch.randn(50, 6, requires_grad=True)
    selection, slots = selecting(0.5), slots_with(margins)
    torch.manual_seed(7)
    keep = selection(slots).notes["keep"]
    keep.sum().backward()
    torch.manual_seed(7)
    uniform = torch.rand(50, 6)
    soft = ((margins + uniform.logit()) / 0.5).sigmoid().detach()
    assert margins.grad is not None
    torch.testing.assert_close(margins.grad, soft * (1 - soft) / 0.5)
    hard = (soft > 0.5).float()
    some = hard.any(dim=1)
    assert torch.equal(keep[some], hard[some])


def test_two_gumbel_variables_differ_by_a_logistic_one() -> None:
    """The draw is torch's own Gumbel-softmax: equal distribution functions at the level of 100,000 samples."""
    count, temperature = 100_000, 0.7
    theirs = torch.nn.functional.gumbel_softmax(torch.tensor([0.0, 0.4]).expand(count, 2), temperature)[:, 1]
    ours = ((0.4 + torch.rand(count).logit()) / temperature).sigmoid()
    levels = torch.linspace(0.05, 0.95, 19)
    gap = ((ours[:, None] < levels).float().mean(dim=0) - (theirs[:, None] < levels).float().mean(dim=0)).abs().max()
    assert gap < 1.95 * math.sqrt(2 / count)  # Kolmogorov and Smirnov, 0.1 %


def test_eval_mode_keeps_what_is_likelier_kept_and_at_least_the_likeliest() -> None:
    margins = torch.tensor([[-1.0, 2.0, 0.1, -0.1], [-3.0, -1.0, -2.0, -9.0]])
    selected = selecting().eval()(slots_with(margins))
    assert selected.valid.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert torch.equal(selected.notes["keep"], selected.valid.float())


def test_training_keeps_at_least_the_likeliest_with_a_gradient() -> None:
    margins = torch.tensor([-300.0, -200.0, -250.0]).expand(5, 3).clone().requires_grad_()
    selected = selecting(1000.0)(slots_with(margins))
    assert selected.valid.tolist() == [[False, True, False]] * 5
    selected.notes["keep"].sum().backward()
    assert margins.grad is not None
    assert (margins.grad > 0).all()


def test_slots_that_were_not_valid_stay_dropped() -> None:
    slots = slots_with(torch.tensor([[5.0, 9.0, -5.0], [-1.0, 9.0, -5.0]]).requires_grad_())
    slots.valid[:, 1] = False
    slots.notes["position"] = torch.rand(2, 3, 2)
    for mode in (True, False):
        selected = selecting().train(mode)(slots)
        assert selected.valid[:, 0].all()
        assert not selected.valid[:, 1].any()
        assert selected.notes["keep_probability"][:, 1].tolist() == [0, 0]
        assert torch.equal(selected.notes["position"], slots.notes["position"])
        assert selected.vectors is slots.vectors
        assert torch.isfinite(torch.autograd.grad(selected.notes["keep"].sum(), [slots.vectors])[0]).all()


def decoders() -> list[nn.Module]:
    return [BroadcastDecoder(8, (4, 4), 8, (2,)), MLPDecoder(8, 12, (4, 5), 16, 2)]


@pytest.mark.parametrize("decoder", decoders(), ids=lambda decoder: type(decoder).__name__)
def test_dropped_slots_vanish_from_masks_and_prediction(decoder: nn.Module) -> None:
    """a_k = z_k exp(alpha_k) / sum_j z_j exp(alpha_j): what is left decodes as if the dropped had never been."""
    vectors = torch.randn(3, 5, 8)
    keep = torch.tensor([1.0, 0, 1, 0, 1]).expand(3, 5).clone().requires_grad_()
    decoded, alone = decoder(vectors, keep), decoder(vectors[:, keep[0] > 0])
    assert not decoded.masks[:, [1, 3]].any()
    torch.testing.assert_close(decoded.masks[:, [0, 2, 4]], alone.masks)
    torch.testing.assert_close(decoded.prediction, alone.prediction)
    decoded.prediction.square().sum().backward()
    assert keep.grad is not None
    assert torch.isfinite(keep.grad).all()
    assert keep.grad[:, [1, 3]].abs().min() > 0  # the loss tells a dropped slot whether it is missed


def model() -> ObjectCentricModel:
    selection = SlotSelection(16)
    with torch.no_grad():
        selection.network[3].weight.mul_(50)  # an untrained network hardly tells slots apart
    return ObjectCentricModel(
        CNNEncoder((32, 32), 16, 8, (2, 2)),
        RandomSlots(6, 16),
        SlotAttention(16),
        BroadcastDecoder(16, (8, 8), 8, (2, 2)),
        selection=selection,
    )


def test_the_cost_is_the_mean_probability_and_reaches_the_network() -> None:
    trained, batch = model(), Batch(torch.rand(4, 3, 32, 32))
    output = trained(batch.images)
    cost = KeepCost()(output, batch)
    assert trained.selection is not None
    drop, keep = trained.selection.network(output.slots.vectors).unbind(dim=-1)
    torch.testing.assert_close(cost, (keep.exp() / (keep.exp() + drop.exp())).mean())
    cost.backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.selection.parameters())
    trained.selection = None
    with pytest.raises(ValueError, match="KeepCost needs a model with selection"):
        KeepCost()(trained(batch.images), batch)


def test_frozen_slots_carry_what_was_kept() -> None:
    images = torch.rand(16, 3, 32, 32)
    encoder = FrozenSlotModel(model(), decoder_masks=True)
    slots, again = encoder(Batch(images)), encoder(Batch(images))
    assert slots.masks is not None
    assert torch.equal(slots.valid, again.valid)
    assert 16 <= int(slots.valid.sum()) < slots.valid.numel()
    assert slots.valid.any(dim=1).all()
    assert not slots.masks[~slots.valid].any()
    torch.testing.assert_close(slots.masks.sum(dim=1), torch.ones(16, 32, 32))


def test_preheat_pulls_the_start_and_not_the_end() -> None:
    initial, final = torch.randn(2, 3, 4, requires_grad=True), torch.randn(2, 3, 4, requires_grad=True)
    features = Features(torch.zeros(2, 1, 4), (1, 1))
    output = Output(features, features, initial, Slots.of(final), BroadcastDecoder(4, (2, 2), 4, (1,))(final))
    loss = PreheatLoss()(output, Batch(torch.zeros(2, 3, 2, 2)))
    assert float(loss.detach()) == pytest.approx(float((initial - final).square().mean().detach()), rel=1e-6)
    loss.backward()
    assert final.grad is None
    torch.testing.assert_close(initial.grad, 2 * (initial - final).detach() / 24)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        SlotSelection(4, temperature=0)
    with pytest.raises(ValueError, match=r"slots must be \(B, K, 4\)"):
        SlotSelection(4)(Slots.of(torch.zeros(2, 3, 5)))


@pytest.mark.parametrize("mode", [True, False])
def test_compiles_without_graph_breaks_and_agrees(mode: bool) -> None:
    selection, vectors = SlotSelection(8).train(mode), torch.randn(3, 5, 8)

    def step(vectors: Tensor) -> tuple[Tensor, Tensor]:
        selected = selection(Slots.of(vectors))
        return selected.valid, selected.notes["keep_probability"]

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    expected = step(vectors)
    torch.manual_seed(3)
    found = compiled(vectors)
    torch.testing.assert_close(found[1], expected[1])
    assert torch.equal(found[0], expected[0])

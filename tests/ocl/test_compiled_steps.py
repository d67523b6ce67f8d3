"""Every kind of training step, from images to gradients, is one graph to a compiler and stays the same step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from ocl.decoders.patch import PatchDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.hooks import ReadsModel
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.cycle_aims import PositiveSet
from ocl.losses.cycle_targets import MovingAverageEncoder
from ocl.losses.points import PointLoss
from ocl.losses.preheat import PreheatLoss
from ocl.losses.reconstruction import PixelReconstruction
from ocl.losses.sparsity import KeepCost
from ocl.losses.walks import Walk
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import InitialSlots, LearnedSlots, NoisyLearnedSlots, RandomSlots
from ocl.slots.invariant import InvariantSlotAttention
from ocl.slots.point_guidance import PointGuidance
from ocl.slots.preheated import PreheatedSlots
from ocl.slots.refining import AttentionRefiningKernel
from ocl.slots.selection import SlotSelection

K, D, SIZE = 4, 16, 16


def slot_attention(**switches: object) -> SlotAttention:
    return SlotAttention(D, iterations=2, hidden_dim=16, **switches)  # type: ignore[arg-type]


@dataclass
class Kind:
    """What differs between the models; the losses come beside reconstruction."""

    starts: InitialSlots = field(default_factory=lambda: RandomSlots(K, D))
    grouping: SlotAttention = field(default_factory=slot_attention)
    selection: nn.Module | None = None
    losses: tuple[nn.Module, ...] = ()


KINDS: dict[str, Callable[[], Kind]] = {
    "plain": Kind,
    "kernel and points": lambda: Kind(
        grouping=slot_attention(kernel=AttentionRefiningKernel(), points=PointGuidance(D)), losses=(PointLoss(),)
    ),
    "cycle": lambda: Kind(
        losses=(
            SlotFeatureSlot(Walk(active_only=True)),
            FeatureSlotFeature(PositiveSet(target=MovingAverageEncoder())),
        )
    ),
    "adaslot": lambda: Kind(selection=SlotSelection(D), losses=(KeepCost(),)),
    "invariant": lambda: Kind(grouping=InvariantSlotAttention(D, iterations=2, hidden_dim=16, scale=True)),
    "noisy queries, bi-level": lambda: Kind(NoisyLearnedSlots(K, D), slot_attention(gradient="bilevel")),
    "pre-heated": lambda: Kind(PreheatedSlots(LearnedSlots(K, D), total_steps=100), losses=(PreheatLoss(),)),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_step_is_one_graph_and_equals_the_eager_one(name: str) -> None:
    kind = KINDS[name]()
    encoder, decoder = CNNEncoder((SIZE, SIZE), D, 8, (2,), 3), PatchDecoder(D, (8, 8), 2, 16, 1)
    model = ObjectCentricModel(encoder, kind.starts, kind.grouping, decoder, selection=kind.selection)
    losses = nn.ModuleList([PixelReconstruction(), *kind.losses])
    for loss in losses:
        if isinstance(loss, ReadsModel):
            loss.attach(model)
    known = torch.tensor([[True, True, False], [False] * 3, [True] * 3])
    batch = Batch(torch.rand(3, 3, SIZE, SIZE), None, {"points": torch.rand(3, 3, 2), "point_known": known})

    def terms(batch: Batch) -> Tensor:
        output = model(batch.images, hints=batch.hints)
        return torch.stack([loss(output, batch) for loss in losses])

    def step(terms: Callable[[Batch], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(1)
        model.zero_grad()
        values = terms(batch)
        values.sum().backward()
        return values.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    torch.compiler.reset()  # what other tests compiled counts against a limit
    eager, eager_gradients = step(terms)
    compiled, gradients = step(torch.compile(terms, fullgraph=True, backend="aot_eager"))
    assert (eager > 0).all()
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == eager_gradients.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(gradients, eager_gradients, rtol=1e-4, atol=1e-6)

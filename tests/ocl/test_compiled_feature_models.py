"""Steps of models of features and codes: one graph to a compiler, the same step eager; in bfloat16 nearly the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ocl.decoders.autoregressive import AutoregressiveDecoder
from ocl.decoders.base import GroupedDecoder
from ocl.decoders.codes import CodeDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.discrete import DiscreteAutoencoder, DiscreteEncoder
from ocl.encoders.tuned_vit import TunedViT
from ocl.hooks import ReadsModel
from ocl.losses.codes import AutoencoderError, CodeCrossEntropy
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.losses.settled_attention import SettledAttention
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.shapes import Batch
from ocl.slate import SLATE
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

SIZE, GRID, K, DIM = (16, 24), (4, 6), 3, 16
VIT = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}


def tuned(decoder: GroupedDecoder) -> ObjectCentricModel:
    encoder = TunedViT("vit_tiny_patch16_224", SIZE, first_block=1, pretrained=False, arguments=VIT)
    starts, grouping = RandomSlots(K, DIM), SlotAttention(DIM, hidden_dim=16)
    return ObjectCentricModel(encoder, starts, grouping, decoder, TokenProjection(24, DIM))


def slate() -> SLATE:
    encoder = DiscreteEncoder(SIZE, DiscreteAutoencoder(12, 8), 24)
    starts, grouping = RandomSlots(K, DIM), SlotAttention(DIM, hidden_dim=16)
    return SLATE(encoder, starts, grouping, CodeDecoder(DIM, 24, GRID, 12, 2, 2), TokenProjection(24, DIM))


KINDS: dict[str, tuple[Callable[[], ObjectCentricModel], tuple[nn.Module, ...]]] = {
    "ft-dinosaur": (lambda: tuned(TopKDecoder(MLPDecoder(DIM, 24, GRID, 16), 2)), (FeatureReconstruction(),)),
    "spot": (lambda: tuned(AutoregressiveDecoder(DIM, 24, GRID, 2, 2, permuted=True)), (FeatureReconstruction(),)),
    "slate": (slate, (AutoencoderError(), CodeCrossEntropy())),
}


def step(model: ObjectCentricModel, terms: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    model.zero_grad()
    values = terms(images)
    values.sum().backward()
    return values.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", ["ft-dinosaur", "slate"])
def test_a_step_is_one_graph_and_equals_the_eager_one(name: str) -> None:
    make, own = KINDS[name]
    model, losses, images = make(), [*own, SettledAttention()], torch.rand(3, 3, *SIZE)
    for loss in losses:
        if isinstance(loss, ReadsModel):
            loss.attach(model)

    def terms(images: Tensor) -> Tensor:
        output = model(images)
        return torch.stack([loss(output, Batch(images)) for loss in losses])

    torch.compiler.reset()  # what other tests compiled counts against a limit
    eager, eager_gradients = step(model, terms, images)
    compiled, gradients = step(model, torch.compile(terms, fullgraph=True, backend="aot_eager"), images)
    assert len(eager_gradients) == sum(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradients, eager_gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_changes_losses_by_its_rounding(name: str) -> None:
    make, losses = KINDS[name]
    model, images = make(), torch.rand(3, 3, *SIZE)

    def terms(images: Tensor) -> Tensor:
        output = model(images)
        return torch.stack([loss(output, Batch(images)) for loss in losses])

    def halves(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return terms(images)

    model.eval()  # draws of codes would differ where logits nearly tie
    single, _ = step(model, terms, images)
    rounded, gradients = step(model, halves, images)
    torch.testing.assert_close(rounded, single, rtol=0.03, atol=0)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_slate_paints_in_bfloat16() -> None:
    model, images = slate().eval(), torch.rand(2, 3, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        painted = model.paint(model(images).slots)
    assert painted.shape == images.shape
    assert painted.isfinite().all()

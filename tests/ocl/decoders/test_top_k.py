"""Top-k decoding: the full decoder with all but the strongest slots of each token taken out of the competition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel
from ocl.representations.slot_model import FrozenSlotModel
from ocl.shapes import Batch, Features, Grouped, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

B, K, D, GRID = 3, 6, 16, (4, 5)


def grouped(vectors: Tensor, masks: Tensor | None, keep: Tensor | None = None) -> Grouped:
    features = Features(torch.zeros(len(vectors), GRID[0] * GRID[1], 8), GRID)
    slots = Slots.of(vectors, masks)
    if keep is not None:
        slots.notes["keep"] = keep
    return Grouped(features, features, vectors, slots)


def plain(decoder: MLPDecoder, slots: Tensor, attention: Tensor, k: int, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Decode everything, then let every token forget all but its k strongest slots."""
    hidden = F.relu(decoder.first(slots.unsqueeze(2) + decoder.position))
    for layer in decoder.hidden:
        hidden = F.relu(layer(hidden))
    strength = attention.flatten(2).masked_fill(keep[..., None] == 0, -1)
    weakest = strength.sort(dim=1, descending=True).values[:, k - 1 : k]
    weight = decoder.alpha(hidden).squeeze(-1).exp() * keep[..., None] * (strength >= weakest)
    masks = weight / weight.sum(dim=1, keepdim=True)
    return (masks[..., None] * decoder.features(hidden)).sum(dim=1), masks.unflatten(-1, GRID)


@pytest.mark.parametrize("kept", ["all", "weighted", "some dropped"])
@pytest.mark.parametrize("k", range(1, K + 1))
def test_equals_the_plain_order_at_every_k(k: int, kept: str) -> None:
    decoder = TopKDecoder(MLPDecoder(D, 8, GRID, 32, 3), k).double()
    vectors = torch.randn(B, K, D, dtype=torch.float64, requires_grad=True)
    attention = torch.randn(B, K, *GRID, dtype=torch.float64).softmax(dim=1)
    keep = torch.ones(B, K, dtype=torch.float64) if kept == "all" else torch.rand(B, K, dtype=torch.float64) + 0.1
    if kept == "some dropped":
        keep[:, :2] = 0
    keep.requires_grad_(kept == "weighted")
    inputs = [vectors, *decoder.parameters(), *([keep] if kept == "weighted" else [])]
    expected, expected_masks = plain(decoder.decoder, vectors, attention, k, keep)
    decoded = decoder(grouped(vectors, attention, None if kept == "all" else keep))
    torch.testing.assert_close(decoded.prediction, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(decoded.masks, expected_masks, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(expected)
    ours = torch.autograd.grad((decoded.prediction * cotangent).sum(), inputs)
    theirs = torch.autograd.grad((expected * cotangent).sum(), inputs)
    for mine, plainly in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plainly, rtol=1e-8, atol=1e-9)


def test_all_slots_are_the_full_decoder_bit_for_bit() -> None:
    decoder = MLPDecoder(D, 8, GRID, 32)
    vectors, attention = torch.randn(B, K, D), torch.randn(B, K, *GRID).softmax(dim=1)
    full, top = decoder(vectors), TopKDecoder(decoder, K)(grouped(vectors, attention))
    assert torch.equal(full.prediction, top.prediction)
    assert torch.equal(full.masks, top.masks)


def test_every_token_has_k_slots_that_sum_to_one() -> None:
    attention = torch.randn(B, K, *GRID).softmax(dim=1)
    masks = TopKDecoder(MLPDecoder(D, 8, GRID, 32), 3)(grouped(torch.randn(B, K, D), attention)).masks
    assert ((masks > 0).sum(dim=1) == 3).all()
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(B, *GRID))
    assert torch.equal(attention.topk(3, dim=1).indices.sort(dim=1).values, masks.topk(3, dim=1).indices.sort(1).values)


def test_a_model_hands_it_the_attention_and_learns_through_it() -> None:
    model = ObjectCentricModel(
        CNNEncoder((16, 16), 8, 8, (2, 2)),
        RandomSlots(5, D),
        SlotAttention(D, token_dim=8, hidden_dim=16),
        TopKDecoder(MLPDecoder(D, 8, (4, 4), 16), 2),
    )
    batch = Batch(torch.rand(2, 3, 16, 16))
    output = model(batch.images)
    FeatureReconstruction()(output, batch).backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"decoder.decoder.position", "grouping.key.weight", "initial_slots.mu"} <= learned
    shown = FrozenSlotModel(model, decoder_masks=True).encode(batch)
    assert shown.masks is not None
    assert ((shown.masks > 0).sum(dim=1) == 2).all()


def test_bad_input_is_named() -> None:
    decoder = MLPDecoder(D, 8, GRID, 32)
    with pytest.raises(ValueError, match="k must be at least 1"):
        TopKDecoder(decoder, 0)
    with pytest.raises(ValueError, match="no attention"):
        TopKDecoder(decoder)(grouped(torch.randn(B, K, D), None))
    with pytest.raises(ValueError, match="attention \\(3, 6, 2, 2\\)"):
        TopKDecoder(decoder)(grouped(torch.randn(B, K, D), torch.rand(B, K, 2, 2)))

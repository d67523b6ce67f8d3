"""A ViT tuned beside its frozen copy: same tokens at first, one moves and the other never, in every decoder's loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ocl.decoders.autoregressive import AutoregressiveDecoder
from ocl.decoders.base import GroupedDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.tuned_vit import TunedViT
from ocl.encoders.vit import ViTEncoder
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.representations.tokens import Tokens
from ocl.schedules import WarmupCosine
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.training import ObjectCentricTraining, Rate
from ocl.video import VideoModel

SMALL = {"patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 2}
NAME, SIZE, GRID, DIM = "vit_tiny_patch16_224", (16, 24), (2, 3), 16


def arguments_of(name: str) -> dict[str, int]:
    return SMALL if name == NAME else SMALL | {"reg_tokens": 2}


def encoder_of(name: str = NAME, first_block: int = 0, layer: int = -1) -> TunedViT:
    return TunedViT(name, SIZE, layer, first_block, pretrained=False, arguments=arguments_of(name))


def model_of(
    decoder: GroupedDecoder, encoder: TunedViT, kind: type[ObjectCentricModel] = ObjectCentricModel
) -> ObjectCentricModel:
    grouping, projection = SlotAttention(DIM, hidden_dim=16), TokenProjection(24, DIM)
    return kind(encoder, RandomSlots(3, DIM), grouping, decoder, projection=projection)


def top_k() -> TopKDecoder:
    return TopKDecoder(MLPDecoder(DIM, 24, GRID, 16), k=2)


def moved(encoder: TunedViT) -> TunedViT:
    """As after some training."""
    with torch.no_grad():
        for parameter in encoder.tuned.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


@pytest.mark.parametrize("name", [NAME, "vit_small_patch14_reg4_dinov2"])
@pytest.mark.parametrize(("first_block", "layer"), [(0, -1), (2, -1), (1, 2), (3, 3)])
def test_before_the_first_step_both_are_the_frozen_encoders_tokens(name: str, first_block: int, layer: int) -> None:
    encoder, images = encoder_of(name, first_block, layer), torch.rand(2, 3, *SIZE)
    frozen = ViTEncoder(name, SIZE, layer, False, arguments=arguments_of(name))
    frozen.vit.load_state_dict(encoder.vit.state_dict())
    found, expected = encoder(images), frozen(images).tokens
    torch.testing.assert_close(found.tokens, expected)
    torch.testing.assert_close(found.tuned, expected)
    moved(encoder)
    torch.testing.assert_close(encoder(images).tokens, expected)
    assert not torch.allclose(encoder(images).tuned, expected, atol=1e-2)


def test_the_trained_part_is_the_blocks_asked_for() -> None:
    encoder = encoder_of(first_block=2)
    trained = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    assert trained == {f"tuned.{name}" for name, _ in encoder.vit.blocks[2:].named_parameters()}
    features = encoder(torch.rand(1, 3, *SIZE))
    assert features.tuned.requires_grad
    assert not features.tokens.requires_grad
    encoder.train()
    assert (encoder.vit.training, encoder.tuned.training) == (False, True)
    encoder.eval()
    assert not encoder.tuned.training


@pytest.mark.parametrize("decoder", [top_k, lambda: AutoregressiveDecoder(DIM, 24, GRID, 2, 2, permuted=True)])
def test_training_moves_the_encoder_and_never_the_target(decoder: Callable[[], GroupedDecoder]) -> None:
    model = model_of(decoder(), encoder_of(first_block=1))
    rates = {"encoder": Rate(1e-3)}
    training = ObjectCentricTraining(
        model, {"features": FeatureReconstruction()}, WarmupCosine(10), learning_rate=1e-2, rates=rates
    )
    images = torch.rand(4, 3, *SIZE)
    target, before = model.encoder(images).tokens.clone(), [p.detach().clone() for p in model.encoder.parameters()]
    optimizer = training.configure_optimizers()["optimizer"]
    for _ in range(3):
        optimizer.zero_grad()
        training._losses(model(images), Batch(images))[0].backward()
        optimizer.step()
    assert torch.equal(model.encoder(images).tokens, target)
    for (name, after), start in zip(model.encoder.named_parameters(), before, strict=True):
        assert torch.equal(after, start) != name.startswith("tuned."), name


def test_the_loss_is_to_the_frozen_tokens() -> None:
    model, batch = model_of(top_k(), moved(encoder_of())), Batch(torch.rand(2, 3, *SIZE))
    output = model(batch.images)
    loss = FeatureReconstruction()(output, batch)
    frozen = model.encoder.block_outputs(batch.images, [3])[0]
    torch.testing.assert_close(loss, (output.decoded.prediction - frozen).square().mean())
    torch.testing.assert_close(output.tokens.tokens, model.projection(output.features.tuned))


def test_frozen_tokens_are_not_computed_for_slots_alone() -> None:
    model, ran = model_of(top_k(), encoder_of(first_block=2)), []
    for block in model.encoder.vit.blocks:
        block.register_forward_hook(lambda *_: ran.append(1))
    features = model.encoder(torch.rand(2, 3, *SIZE))
    model.decode(model.group(features))
    assert len(ran) == 2
    assert features.tokens.shape == (2, 6, 24)
    features.tokens.sum()
    assert len(ran) == 4


def test_clips_are_grouped_by_the_trained_tokens() -> None:
    model = model_of(top_k(), moved(encoder_of()), VideoModel)
    clips, noise = torch.rand(2, 3, 3, *SIZE), torch.randn(3, DIM)
    output = model(clips, noise=noise)
    first = model(clips[:, 0], noise=noise)
    torch.testing.assert_close(output.slots.vectors[:, 0], first.slots.vectors)
    torch.testing.assert_close(output.features.tokens[:, 0], first.features.tokens)
    FeatureReconstruction()(output, Batch(clips)).backward()
    assert all(parameter.grad is not None for parameter in model.encoder.tuned.parameters())


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="first_block 3 comes after layer 1"):
        encoder_of(first_block=3, layer=1)
    with pytest.raises(ValueError, match="blocks 0 to 3"):
        encoder_of(first_block=4)
    with pytest.raises(ValueError, match="positions alone"):
        TunedViT("vit_small_patch16_rope_224", (32, 32), pretrained=False, arguments={"depth": 2})
    with pytest.raises(TypeError, match="images must be floating"):
        encoder_of()(torch.zeros(1, 3, *SIZE, dtype=torch.uint8))
    features = encoder_of()(torch.rand(1, 3, *SIZE))
    with pytest.raises(AttributeError, match="codes"):
        _ = features.codes


def test_dense_tokens_are_the_tuned_ones() -> None:
    encoder, images = moved(encoder_of(first_block=2)), torch.rand(2, 3, *SIZE)
    features = encoder(images)
    vectors = Tokens(encoder)(Batch(images)).vectors
    assert torch.equal(vectors, features.tuned)
    assert not torch.allclose(vectors, features.tokens)

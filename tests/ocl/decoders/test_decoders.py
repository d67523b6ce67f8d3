"""Decoders against plain transcriptions, forward and gradients: the rewritings must change nothing but the order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.patch import PatchDecoder
from ocl.losses.reconstruction import PixelReconstruction
from ocl.shapes import Batch, Decoded, Features, Output, Slots


def plain_broadcast(decoder: BroadcastDecoder, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Tile every slot over the grid, add the position embedding, run all layers on every slot."""
    batch, count, dim = slots.shape
    tiled = slots.reshape(-1, dim, 1, 1).expand(-1, -1, *decoder.grid) + decoder.position()
    painted = decoder.output(decoder.hidden(decoder.first(tiled))).unflatten(0, (batch, count))
    masks = painted[:, :, 3:].softmax(dim=1)
    return (masks * painted[:, :, :3]).sum(dim=1), masks.squeeze(2)


def plain_mlp(decoder: MLPDecoder, slots: Tensor) -> tuple[Tensor, Tensor]:
    hidden = F.relu(decoder.first(slots.unsqueeze(2) + decoder.position))
    for layer in decoder.hidden:
        hidden = F.relu(layer(hidden))
    masks = decoder.alpha(hidden).softmax(dim=1)  # (B K N 1)
    return (masks * decoder.features(hidden)).sum(dim=1), masks.squeeze(-1).unflatten(-1, decoder.grid)


def plain_patch(decoder: PatchDecoder, slots: Tensor) -> tuple[Tensor, Tensor]:
    """Every slot's patches put together to an image before the slots are mixed."""
    position = decoder.position().flatten(1).mT
    hidden = F.relu(decoder.first(slots.unsqueeze(2) + position))
    for layer in decoder.hidden:
        hidden = F.relu(layer(hidden))
    patches = decoder.output(hidden).mT.flatten(0, 1)  # (BK 4pp N)
    size = (decoder.grid[0] * decoder.patch, decoder.grid[1] * decoder.patch)
    painted = F.fold(patches, size, decoder.patch, stride=decoder.patch).unflatten(0, slots.shape[:2])
    masks = painted[:, :, 3:].softmax(dim=1)
    return (masks * painted[:, :, :3]).sum(dim=1), masks.squeeze(2)


BROADCAST = [
    {"dim": 16, "grid": (8, 8), "channels": 8, "strides": (2, 2, 1)},
    {"dim": 12, "grid": (5, 7), "channels": 6, "strides": (2,), "output_stride": 2},
    {"dim": 12, "grid": (6, 6), "channels": 6, "strides": (1, 1), "kernel_size": 3},
]
DECODERS = [(BroadcastDecoder, settings, plain_broadcast) for settings in BROADCAST] + [
    (MLPDecoder, {"dim": 16, "feature_dim": 24, "grid": (4, 6), "hidden_dim": 32, "hidden_layers": layers}, plain_mlp)
    for layers in (1, 3)
]
DECODERS.append((PatchDecoder, {"dim": 16, "grid": (3, 5), "patch": 4, "hidden_dim": 32}, plain_patch))


@pytest.mark.parametrize(("kind", "settings", "plain"), DECODERS)
def test_equals_the_plain_order(kind: type[nn.Module], settings: dict, plain) -> None:
    decoder = kind(**settings).double()
    slots = torch.randn(3, 4, settings["dim"], dtype=torch.float64, requires_grad=True)
    inputs = [slots, *decoder.parameters()]
    expected, expected_masks = plain(decoder, slots)
    cotangent = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), inputs)
    decoded = decoder(slots)
    gradients = torch.autograd.grad((decoded.prediction * cotangent).sum(), inputs)
    torch.testing.assert_close(decoded.prediction, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(decoded.masks.double(), expected_masks, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_published_decoder_paints_128_pixels() -> None:
    decoded = BroadcastDecoder()(torch.randn(1, 7, 64))
    assert decoded.prediction.shape == (1, 3, 128, 128)
    assert decoded.masks.shape == (1, 7, 128, 128)
    torch.testing.assert_close(decoded.masks.sum(dim=1), torch.ones(1, 128, 128))


def test_one_slot_takes_the_whole_mask() -> None:
    decoder = BroadcastDecoder(16, (4, 4), 8, (2,))
    decoded = decoder(torch.randn(2, 1, 16))
    assert torch.equal(decoded.masks, torch.ones(2, 1, 8, 8))


@pytest.mark.parametrize(
    "decoder", [BroadcastDecoder(16, (4, 4), 8, (2,)), MLPDecoder(16, 8, (4, 4), 32), PatchDecoder(16, (4, 4), 2)]
)
def test_prediction_does_not_depend_on_slot_order(decoder: nn.Module) -> None:
    slots = torch.randn(2, 5, 16)
    order = torch.randperm(5)
    torch.testing.assert_close(decoder(slots).prediction, decoder(slots[:, order]).prediction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decoder(slots).masks[:, order], decoder(slots[:, order]).masks)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="slots must be"):
        BroadcastDecoder(16)(torch.randn(2, 3, 8))
    with pytest.raises(ValueError, match="slots must be"):
        MLPDecoder(16, 8, (2, 2))(torch.randn(2, 3, 8))
    with pytest.raises(ValueError, match="odd kernel"):
        BroadcastDecoder(16, kernel_size=4)


def test_a_picture_larger_than_the_image_is_no_reconstruction() -> None:
    images = torch.rand(2, 3, 8, 12)
    decoded = Decoded(torch.zeros(2, 3, 4, 6), torch.ones(2, 1, 4, 6))
    features = Features(torch.zeros(2, 1, 4), (1, 1))
    output = Output(features, features, torch.zeros(2, 1, 4), Slots.of(torch.zeros(2, 1, 4)), decoded)
    averaged = images.unflatten(3, (6, 2)).unflatten(2, (4, 2)).mean((3, 5)) * 2 - 1
    torch.testing.assert_close(PixelReconstruction()(output, Batch(images)), averaged.square().mean())
    decoded.prediction = torch.zeros(2, 3, 8, 16)
    with pytest.raises(ValueError, match=r"the decoder paints \(8, 16\) pixels, the images have \(8, 12\)"):
        PixelReconstruction()(output, Batch(images))

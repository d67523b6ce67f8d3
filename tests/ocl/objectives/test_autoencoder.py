"""The autoencoder's loss, its decoder against a plain upsampling, and what is kept of it."""

from __future__ import annotations

import pytest
import torch

from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.encoders.cnn import CNNEncoder
from ocl.objectives.autoencoder import Autoencoder, ImageDecoder
from ocl.representations import Tokens
from ocl.shapes import Batch


def built() -> Autoencoder:
    encoder = CNNEncoder((32, 32), dim=8, channels=16, strides=(2, 2, 2, 1))
    return Autoencoder(encoder, ImageDecoder(8, (4, 4), channels=16))


def test_the_loss_is_the_mean_squared_error_of_the_reconstruction() -> None:
    model = built()
    images = torch.rand(6, 3, 32, 32)
    painted = model.decoder(model.encoder(images).tokens)
    expected = sum(float((x - y).square().sum()) for x, y in zip(painted, images, strict=True)) / images.numel()
    assert float(model(Batch(images))["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.features(images).tokens, model.encoder(images).tokens)


def test_tokens_paint_around_the_place_that_they_stand_for() -> None:
    """Rows of the grid are rows of the image: another token changes pixels near its own cell, and those only."""
    decoder = ImageDecoder(4, (4, 8), channels=8, strides=(2, 2, 2), kernel_size=3)
    assert decoder.image_size == (32, 64)
    tokens = torch.randn(1, 32, 4)
    changed = tokens.clone()
    changed[0, 8 * 1 + 5] += 1  # row 1, column 5
    difference = (decoder(changed) - decoder(tokens)).abs().sum(1)[0]
    rows, columns = difference.sum(1).nonzero().squeeze(), difference.sum(0).nonzero().squeeze()
    assert difference[8:16, 40:48].sum() > 0
    assert 0 <= rows.min() <= 8
    assert 15 <= rows.max() <= 23
    assert 32 <= columns.min() <= 40
    assert 47 <= columns.max() <= 55


def test_it_learns_what_tokens_hold_and_keeps_the_encoder() -> None:
    batch = collate(SpriteScenes(32, image_size=32).__getitems__(range(32)))
    batch.images = batch.images / 255
    model = built()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss) < 0.3 * float((batch.images - batch.images.mean(0)).square().mean())
    kept = Tokens(model.encoder)
    slots = kept(Batch(batch.images))
    assert slots.vectors.shape == (32, 16, 8)
    assert slots.masks is not None
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_parts_must_fit() -> None:
    encoder = CNNEncoder((32, 32), dim=8, channels=8, strides=(2, 2, 2))
    with pytest.raises(ValueError, match=r"decoder \(4, 4\) tokens of 6"):
        Autoencoder(encoder, ImageDecoder(6, (4, 4)))
    with pytest.raises(ValueError, match=r"into images of \(16, 16\)"):
        Autoencoder(encoder, ImageDecoder(8, (4, 4), strides=(2, 2)))
    with pytest.raises(ValueError, match="an odd kernel"):
        ImageDecoder(8, (4, 4), kernel_size=4)

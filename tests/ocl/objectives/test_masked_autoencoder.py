"""Masked autoencoding against a plain transcription of the published equations, patch by patch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ocl.data.collate import collate
from ocl.data.twin_scenes import TwinScenes
from ocl.objectives.masked_autoencoder import MaskedAutoencoder, random_ranks, standardised, take
from ocl.objectives.vit import TrainableViT, sine_cosine_positions
from ocl.shapes import Batch

SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def built(**arguments) -> MaskedAutoencoder:
    return MaskedAutoencoder(
        TrainableViT(arguments=SMALL), decoder_dim=24, decoder_depth=1, decoder_heads=3, **arguments
    )


def images(count: int = 6) -> Tensor:
    return collate(TwinScenes(count).__getitems__(range(count))).images / 255


def plain_loss(model: MaskedAutoencoder, pixels: Tensor, rank: Tensor) -> Tensor:
    """One image and one patch at a time, in loops."""
    vit, timm = model.vit, model.vit.vit
    height, width = vit.patch
    losses = []
    for image, order in zip(pixels, rank.tolist(), strict=True):
        normal = (image - vit.mean) / vit.std
        corners = [(y, x) for y in range(0, image.shape[1], height) for x in range(0, image.shape[2], width)]
        cut = [normal[:, y : y + height, x : x + width] for y, x in corners]
        seen = [number for number in range(len(cut)) if order[number] < model.kept]
        tokens = [timm.cls_token[0, 0] + timm.pos_embed[0, 0]]
        for number in seen:
            flat = timm.patch_embed.proj.weight.flatten(1) @ cut[number].flatten() + timm.patch_embed.proj.bias
            tokens.append(flat + timm.pos_embed[0, 1 + number])
        encoded = model.embed(timm.norm(timm.blocks(torch.stack(tokens)[None])))[0]
        listed = [encoded[0]] + [model.mask_token] * len(cut)
        for place, number in enumerate(seen):
            listed[1 + number] = encoded[1 + place]
        listed = [token + position for token, position in zip(listed, model.positions, strict=True)]
        painted = model.paint(model.norm(model.blocks(torch.stack(listed)[None])))[0, 1:]
        for number, patch in enumerate(cut):
            if number in seen:
                continue
            target = patch.permute(1, 2, 0).flatten()
            variance = ((target - target.mean()) ** 2).sum() / (len(target) - 1)
            target = (target - target.mean()) / math.sqrt(variance + 1e-6)
            losses.append(((painted[number] - target) ** 2).mean())
    return torch.stack(losses).mean()


def test_the_loss_is_the_published_one() -> None:
    model, pixels = built().double(), images().double()
    torch.manual_seed(5)
    found = model(Batch(pixels))["loss"]
    torch.manual_seed(5)
    rank = random_ranks((len(pixels), 64), pixels.device)
    assert found.item() == pytest.approx(plain_loss(model, pixels, rank).item(), rel=1e-5)


def test_a_quarter_is_kept_and_every_patch_equally_often() -> None:
    rank = random_ranks((4000, 16), torch.device("cpu"))
    assert torch.equal(rank.sort(dim=1).values, torch.arange(16).expand(4000, -1))
    kept = (rank < 4).float().mean(0)
    assert (kept - 0.25).abs().max() < 4 * (0.25 * 0.75 / 4000) ** 0.5
    tokens = torch.arange(16.0).view(1, 16, 1).expand(4000, -1, -1)
    listed = take(tokens, rank.argsort(dim=1))
    assert torch.equal(take(listed, rank), tokens), "ranks bring every patch back to its place"


@pytest.mark.parametrize(("ratio", "kept"), [(0.75, 16), (0.9, 6), (1 - 1 / 64, 1), (0.95, 3), (0.3, 44), (0.625, 24)])
def test_as_many_are_kept_as_the_ratio_says(ratio: float, kept: int) -> None:
    assert built(mask_ratio=ratio).kept == kept
    vit = TrainableViT(image_size=(16, 40), arguments=SMALL)
    assert MaskedAutoencoder(vit, 0.9, decoder_dim=24, decoder_heads=3).kept == 1


def test_hidden_patches_do_not_reach_the_encoder() -> None:
    model, pixels = built(), images(4)
    torch.manual_seed(1)
    prediction, hidden = model.reconstruct(pixels)
    noise = torch.rand_like(pixels)
    grid = hidden.view(4, 1, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    torch.manual_seed(1)
    again, same = model.reconstruct(torch.where(grid, noise, pixels))
    assert torch.equal(hidden, same)
    assert hidden.float().mean() == 0.75
    assert torch.equal(prediction, again)
    torch.manual_seed(1)
    other, _ = model.reconstruct(torch.where(grid, pixels, noise))
    assert (other - prediction).abs().max() > 0.1


def test_patches_are_cut_in_raster_order_and_put_back() -> None:
    model, pixels = built(), images(3)
    patches = model.patches(pixels)
    assert patches.shape == (3, 64, 192)
    torch.testing.assert_close(model.unpatch(patches), pixels)
    corner = ((pixels - model.vit.mean) / model.vit.std)[1, :, 8:16, 16:24]  # second row, third column
    assert torch.equal(patches[1, 10], corner.permute(1, 2, 0).flatten())
    scaled = standardised(patches)
    torch.testing.assert_close(scaled.mean(-1), torch.zeros(3, 64), atol=1e-4, rtol=0)
    varied = patches.var(-1) > 1e-3
    torch.testing.assert_close(scaled.var(-1)[varied], torch.ones(int(varied.sum())), atol=1e-2, rtol=0)


def test_pictures_keep_what_was_seen() -> None:
    model, pixels = built(), images(2)
    seen, filled = model.pictures(pixels)
    assert seen.shape == filled.shape == pixels.shape
    torch.manual_seed(0)
    shown = (seen - 0.5).abs().amax(1, keepdim=True) > 1e-6  # hidden patches are mid-grey
    torch.testing.assert_close(torch.where(shown, filled, 0), torch.where(shown, pixels, 0), atol=1e-5, rtol=0)


def test_sine_cosine_positions() -> None:
    table = sine_cosine_positions((3, 5), 16).view(3, 5, 16)
    y, x, i = 2, 4, 3
    frequency = 10_000 ** (-i / 4)
    expected = [math.sin(x * frequency), math.cos(x * frequency), math.sin(y * frequency), math.cos(y * frequency)]
    assert table[y, x, i::4].tolist() == pytest.approx(expected, abs=1e-6)
    vit = TrainableViT(arguments=SMALL)
    assert torch.equal(vit.vit.pos_embed[0, 1:], sine_cosine_positions((8, 8), 48))
    assert not vit.vit.pos_embed[0, 0].any()
    assert not vit.vit.pos_embed.requires_grad
    assert TrainableViT(arguments=SMALL, learn_positions=True).vit.pos_embed.requires_grad
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_cosine_positions((2, 2), 6)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.99])
def test_ratios_that_hide_nothing_or_all_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=f"mask_ratio {ratio} keeps"):
        built(mask_ratio=ratio)

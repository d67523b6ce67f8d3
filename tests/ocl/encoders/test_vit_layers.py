"""Layers of timm ViTs: in raster order, against timm's own attention, and whatever else is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ocl.binding.labels import patch_labels
from ocl.describe import describe_module
from ocl.encoders.vit import ViTEncoder
from ocl.encoders.vit_layers import ViTLayers

TINY = "vit_tiny_patch16_224"
ATTENTION = {
    "plain": TINY,
    "registers": "vit_small_patch14_reg4_dinov2.lvd142m",
    "normalised queries and keys": "vit_wee_patch16_reg1_gap_256",
    "rotary positions": "eva02_tiny_patch14_224",
    "relative positions": "beit_base_patch16_224",
    "rotary, registers": "vit_small_patch16_dinov3.lvd1689m",
}


def images(size: tuple[int, int], count: int = 2) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(3))


def small(name: str, cells: tuple[int, int] = (3, 4), **arguments: object) -> ViTLayers:
    """Random weights, all of them: those that start at zero or one too."""
    patch = 14 if "patch14" in name else 16
    torch.manual_seed(0)
    model = ViTLayers(name, (cells[0] * patch, cells[1] * patch), pretrained=False, **arguments)  # type: ignore[arg-type]
    for weight in model.vit.parameters():
        weight.add_(0.05 * torch.randn_like(weight))
    return model


def index_model(name: str, cells: tuple[int, int]) -> ViTLayers:
    """A ViT whose patch tokens carry the mean of their own patch, and whose prefix tokens carry -1."""
    model = small(name, cells, parts=("block", "value"))
    vit = model.vit
    vit.patch_embed.proj.weight.zero_()
    vit.patch_embed.proj.weight[0] = 1 / vit.patch_embed.proj.weight[0].numel()
    vit.patch_embed.proj.bias.zero_()
    vit.pos_embed.zero_()
    for prefix in (vit.cls_token, vit.reg_token):
        if prefix is not None:
            prefix.fill_(-1)
    for block in vit.blocks:  # attention and MLP add nothing, and the value of a token is the token
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        block.mlp.fc2.weight.zero_()
        block.mlp.fc2.bias.zero_()
        block.norm1 = torch.nn.Identity()
        block.attn.qkv.weight.zero_()
        if block.attn.qkv.bias is not None:
            block.attn.qkv.bias.zero_()
        block.attn.qkv.weight[2 * model.dim :] = torch.eye(model.dim)
    return model


@pytest.mark.parametrize("cells", [(4, 4), (3, 7), (9, 2)])
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("vit_medium_patch16_gap_240", 0),
        (TINY, 1),
        ("vit_base_patch16_224.mae", 1),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 5),
    ],
)
def test_tokens_are_in_raster_order(name: str, prefix: int, cells: tuple[int, int]) -> None:
    """Token n says n, and so does the label of patch n: neither order nor prefix tokens can hide."""
    model = index_model(name, cells)
    assert model.prefix_tokens == prefix
    assert model.grid == cells
    height, width = model.image_size
    numbers = torch.arange(cells[0] * cells[1]).view(cells)
    pixels = numbers.repeat_interleave(height // cells[0], 0).repeat_interleave(width // cells[1], 1)
    picture = (pixels / numbers.numel())[None, None].expand(1, 3, -1, -1)
    tokens = model(picture * model.std + model.mean)  # undoes the model's own normalisation
    labels = patch_labels(pixels[None], cells).labels
    assert labels.tolist() == [list(range(numbers.numel()))]
    assert tokens.shape == (2 * len(model.vit.blocks), 1, numbers.numel(), model.dim)
    found = (tokens[:, 0, :, 0] * numbers.numel()).round().long()
    assert torch.equal(found, labels.expand_as(found))


@pytest.mark.parametrize("name", ATTENTION.values(), ids=ATTENTION)
def test_attention_is_the_one_that_timm_computes(name: str) -> None:
    """timm's own, without its fused kernel, at the place where it would drop some of it."""
    layers = (0, 2)
    model = small(name, layers=layers, parts=("block", "query", "key", "value"))
    batch = images(model.image_size)
    tokens, attention = model.with_attention(batch)
    kept: dict[int, Tensor] = {}
    for layer in layers:
        module = model.vit.blocks[layer].attn
        module.fused_attn = False
        module.attn_drop.register_forward_hook(lambda _, __, output, layer=layer: kept.update({layer: output}))
    expected_blocks = model.block_outputs(batch, layers)
    prefix, heads = model.prefix_tokens, attention.shape[2]
    for index, layer in enumerate(layers):
        torch.testing.assert_close(attention[index], kept[layer][:, :, prefix:, prefix:], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tokens[index], expected_blocks[index], rtol=1e-4, atol=1e-5)
    assert attention.std() > 1e-4  # not all alike
    assert tokens.shape == (8, 2, 12, model.dim)
    # The same attention from the queries and keys that were handed out, but for the prefix and biases of positions.
    query, key = (tokens[i].unflatten(-1, (heads, -1)).transpose(1, 2) for i in (2, 4))
    ratio = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1)
    if name != ATTENTION["relative positions"]:
        torch.testing.assert_close(attention[0] / attention[0].sum(-1, keepdim=True), ratio, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"block 0 of .* does not compute one scaled dot-product attention"):
        model(batch)  # no longer in the form that can be read


def test_plain_queries_are_the_projections() -> None:
    model = small(TINY, layers=[5], parts=("query", "key", "value"))
    inputs: list[Tensor] = []
    model.vit.blocks[5].attn.qkv.register_forward_hook(lambda _, __, output: inputs.append(output))
    tokens = model(images(model.image_size))
    torch.testing.assert_close(tokens, torch.stack(inputs[0][:, 1:].chunk(3, dim=-1)), rtol=0, atol=0)


def test_a_layer_is_the_same_whatever_else_is_read() -> None:
    every = small(TINY, parts=("block", "key"))
    batch = images(every.image_size)
    tokens = every(batch)
    assert every.places[:2] + every.places[-1:] == ("block 0", "block 1", "key 11")
    assert len(every.places) == len(tokens) == 24
    for layers, parts in (([7], ("block",)), ([-1, 0], ("key",)), ([3, 1, 2], ("key", "block"))):
        some = small(TINY, layers=layers, parts=parts)
        places = [every.places.index(place) for place in some.places]
        assert torch.equal(some(batch), tokens[places])
    assert torch.equal(every.with_attention(batch)[0], tokens)
    alone = ViTEncoder(TINY, every.image_size, layer=7, pretrained=False)
    alone.vit.load_state_dict(every.vit.state_dict())
    assert torch.equal(alone(batch).tokens, tokens[7])


def test_the_pass_ends_at_the_last_layer() -> None:
    model = small(TINY, layers=[1, 4])
    run: list[int] = []
    for number, block in enumerate(model.vit.blocks):
        block.register_forward_hook(lambda *_, number=number: run.append(number))
    model(images(model.image_size))
    assert run == [0, 1, 2, 3, 4]


def test_reading_leaves_no_trace() -> None:
    model = small(TINY, layers=[0], parts=("query",))
    model(images(model.image_size))
    assert not any(block._forward_pre_hooks for block in model.vit.blocks)
    model.vit.blocks[3].attn.fused_attn = False  # not read, so no matter
    model(images(model.image_size))
    model.vit.blocks[0].attn.fused_attn = False
    with pytest.raises(ValueError, match='read its output \\("block"\\) instead'):
        model(images(model.image_size))
    assert not any(block._forward_pre_hooks for block in model.vit.blocks)


def test_the_encoder_of_one_layer_is_described_as_before() -> None:
    """Stores of features name their encoder by this text."""
    lines = describe_module(ViTEncoder(TINY, (32, 48), layer=3, pretrained=False)).splitlines()
    half = '"62351624126118876591ecef3b01d610263437c251a302a901577c9febaeec1a"'
    assert lines[0] == (
        ': ocl.encoders.vit.ViTEncoder {"dim": 192, "grid": [2, 3], "image_size": [32, 48], "layer": 3, '
        f'"name": "{TINY}", "mean": {half}, "std": {half}}}'
    )
    assert all(line.split(":")[0].startswith("vit") for line in lines[1:])


def test_each_model_has_its_own_normalisation() -> None:
    clip, plain = ViTLayers("vit_base_patch32_clip_224.openai", (32, 32), [0], pretrained=False), small(TINY)
    torch.testing.assert_close(clip.mean.flatten(), torch.tensor([0.48145466, 0.4578275, 0.40821073]))
    assert plain.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_halves_reads_float32_images(dtype: torch.dtype) -> None:
    model = small(TINY)
    pixels = images((48, 64))
    expected = model(pixels)[:2]
    found = model.to(dtype)(pixels)[:2]
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    torch.manual_seed(5)
    written = timm.create_model(TINY, pretrained=False, num_classes=10)
    save_file(written.state_dict(), path)
    model = ViTLayers(TINY, (32, 48), weights=str(path))
    batch = images((32, 48))
    found = model(batch)
    assert torch.equal(model.vit.blocks[3].attn.qkv.weight, written.blocks[3].attn.qkv.weight)
    # The position embedding was made for 14 x 14 patches: interpolated, not drawn anew.
    assert not torch.equal(model.vit.pos_embed, ViTLayers(TINY, (32, 48), pretrained=False).vit.pos_embed)
    assert torch.equal(ViTLayers(TINY, (32, 48), weights=str(path))(batch), found)

    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors does not exist"):
        ViTLayers(TINY, (32, 48), weights=str(tmp_path / "nowhere.safetensors"))
    for content in (b"", path.read_bytes()[:1000], b"not weights at all" * 100):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.safetensors") as raised:
            ViTLayers(TINY, (32, 48), weights=str(tmp_path / "bad.safetensors"))
        assert "\n" not in str(raised.value)
    for others in ({"weight": torch.zeros(3)}, {"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16)}):
        save_file(others, tmp_path / "other.safetensors")
        with pytest.raises(ValueError, match=rf"other\.safetensors lacks \d+ of the weights of {TINY}"):
            ViTLayers(TINY, (32, 48), weights=str(tmp_path / "other.safetensors"))
    save_file(timm.create_model("vit_small_patch16_224").state_dict(), tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match=r"timm cannot build vit_tiny_patch16_224 from .*wide\.safetensors") as raised:
        ViTLayers(TINY, (32, 48), weights=str(tmp_path / "wide.safetensors"))
    assert "\n" not in str(raised.value)


def test_absent_weights_are_one_sentence_without_network(tmp_path: Path) -> None:
    script = (
        "from ocl.encoders.vit_layers import ViTLayers\n"
        "try:\n    ViTLayers('vit_tiny_patch16_224', (32, 32))\n"
        "except FileNotFoundError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout == (
        "The weights of vit_tiny_patch16_224 are not in the local cache and cannot be fetched; connect once, give a "
        "file as weights, or take random ones with pretrained=False.\n"
    )
    assert done.returncode == 0, done.stderr


def test_other_models_and_sizes_are_refused() -> None:
    others = ("samvit_base_patch16_224", "xcit_nano_12_p16_224", "crossvit_tiny_240")
    for name in ("resnet18", "convnext_atto", "mixer_s16_224", "swin_tiny_patch4_window7_224", *others):
        with pytest.raises(ValueError, match=f"{name} is not a vision transformer with patch tokens"):
            ViTLayers(name, (64, 64), pretrained=False)
    with pytest.raises(ValueError, match="timm cannot build vit_of_nobody: Unknown model"):
        ViTLayers("vit_of_nobody", (64, 64), pretrained=False)
    with pytest.raises(ValueError, match=r"image_size must be positive, \(H, W\) in pixels, got \(0, 16\)"):
        ViTLayers(TINY, (0, 16), pretrained=False)
    for size in ((8, 8), (70, 64)):
        with pytest.raises(ValueError, match=r"image_size must be multiples of the patch size 16 x 16"):
            ViTLayers(TINY, size, pretrained=False)
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 48, 64\), got \(2, 3, 48, 48\)"):
        small(TINY)(torch.zeros(2, 3, 48, 48))
    with pytest.raises(TypeError, match=r"images must be floating in \[0, 1\], got torch.uint8"):
        small(TINY)(torch.zeros(2, 3, 48, 64, dtype=torch.uint8))


def test_bad_places_are_refused() -> None:
    def build(**arguments: object) -> ViTLayers:
        return ViTLayers(TINY, (32, 32), pretrained=False, **arguments)  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="has blocks 0 to 11, got layer 12"):
        build(layers=[12])
    for wrong in ([], [11, -1]):
        with pytest.raises(ValueError, match="layers must be at least one and different"):
            build(layers=wrong)
    for parts in (("block", "logits"), ("q",)):
        with pytest.raises(ValueError, match="parts must be a list from block, query, key, value"):
            build(parts=parts)

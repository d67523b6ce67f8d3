"""The mask decoder and the image encoder against segment-anything's own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch._dynamo.backends.registry import lookup_backend

from ocl.masks.sam import encoder as sam_encoder
from ocl.masks.sam.decoder import PromptDecoder
from ocl.masks.sam.encoder import SamEncoder
from ocl.masks.sam.image_side import ImageSide


def drawn(module: nn.Module) -> Any:
    """Also those parameters that start at zero or one."""
    for name, parameter in module.named_parameters():
        if "norm" in name or "pos" in name:
            nn.init.normal_(parameter, 1 if "norm" in name and "weight" in name else 0, 0.3)
    return module.eval().requires_grad_(False)


def decoders(grid: tuple[int, int], depth: int, dtype: torch.dtype) -> tuple[Any, Any]:
    prompts = PromptEncoder(256, grid, (16 * grid[0], 16 * grid[1]), 16)
    transformer = TwoWayTransformer(depth=depth, embedding_dim=256, mlp_dim=512, num_heads=8)
    return drawn(prompts), drawn(MaskDecoder(transformer_dim=256, transformer=transformer)).to(dtype)


def prompted(prompts: Any, kind: str, count: int) -> Tensor:
    points = (100 * torch.rand(count, 2, 2), torch.tensor([[1, 0]]).expand(count, -1))
    boxes = 100 * torch.rand(count, 4)
    given = {"points": (points, None), "boxes": (None, boxes), "both": (points, boxes)}[kind]
    sparse: Tensor = prompts(points=given[0], boxes=given[1], masks=None)[0]
    return sparse


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize(("kind", "depth"), [("points", 2), ("boxes", 2), ("both", 2), ("points", 1), ("points", 3)])
def test_decoder_equals_the_package(dtype: torch.dtype, tolerance: float, kind: str, depth: int) -> None:
    prompts, decoder = decoders((12, 10), depth, dtype)
    image = torch.randn(1, 256, 12, 10, dtype=dtype)
    sparse = prompted(prompts, kind, 9)
    dense = prompts.no_mask_embed.weight[..., None, None].to(dtype)
    expected, quality = decoder.predict_masks(image, prompts.get_dense_pe().to(dtype), sparse, dense)

    ours = PromptDecoder(decoder, ImageSide(decoder, (image + dense)[0], prompts.get_dense_pe()[0]))
    tokens, updates = ours.tokens(sparse)
    torch.testing.assert_close(ours.quality(tokens), quality, atol=tolerance, rtol=tolerance)
    found = ours.logits(tokens, updates, torch.ones_like(quality, dtype=torch.bool)).view_as(expected)
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_logits_of_chosen_masks_come_in_row_major_order() -> None:
    prompts, decoder = decoders((6, 6), 2, torch.float64)
    image, sparse = torch.randn(256, 6, 6, dtype=torch.float64), prompted(prompts, "points", 5)
    ours = PromptDecoder(decoder, ImageSide(decoder, image, prompts.get_dense_pe()[0]))
    tokens, updates = ours.tokens(sparse)
    chosen = torch.rand(5, 4) < 0.4
    every = ours.logits(tokens, updates, torch.ones(5, 4, dtype=torch.bool)).view(5, 4, 24, 24)
    assert 0 < chosen.sum() < 20
    torch.testing.assert_close(ours.logits(tokens, updates, chosen), every[chosen])
    some = torch.tensor([3, 1])
    torch.testing.assert_close(ours.logits(tokens[some], updates[some], chosen[some]), every[some][chosen[some]])


def test_prompts_do_not_depend_on_their_neighbours() -> None:
    prompts, decoder = decoders((6, 6), 2, torch.float64)
    image, sparse = torch.randn(256, 6, 6, dtype=torch.float64), prompted(prompts, "points", 7)
    ours = PromptDecoder(decoder, ImageSide(decoder, image, prompts.get_dense_pe()[0]))
    together = ours.tokens(sparse)[0]
    torch.testing.assert_close(together, torch.cat([ours.tokens(part)[0] for part in sparse.split(3)]))


@pytest.mark.parametrize(("size", "batch"), [(160, 2), (432, 1)], ids=["pad", "many queries"])
def test_encoder_equals_the_package(size: int, batch: int) -> None:
    """With windows that need padding, and with more tokens than are attended at a time (27 x 27 > 512)."""
    options: dict[str, Any] = {"use_rel_pos": True, "window_size": 7, "global_attn_indexes": (1,)}
    encoder = drawn(ImageEncoderViT(size, embed_dim=48, depth=3, num_heads=3, out_chans=16, **options))
    images = torch.randn(batch, 3, size, size)
    torch.testing.assert_close(SamEncoder(encoder)(images), encoder(images), atol=2e-5, rtol=2e-5)
    double = SamEncoder(encoder.double())(images.double())
    torch.testing.assert_close(double, encoder(images.double()), atol=1e-12, rtol=1e-12)


def test_encoder_without_relative_positions() -> None:
    encoder = drawn(
        ImageEncoderViT(64, embed_dim=32, depth=2, num_heads=2, out_chans=16, qkv_bias=False, window_size=3)
    )
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(SamEncoder(encoder)(images), encoder(images), atol=2e-5, rtol=2e-5)


def test_bfloat16_encoder_is_close_and_gives_float32() -> None:
    encoder = drawn(ImageEncoderViT(96, embed_dim=48, depth=2, num_heads=3, out_chans=16, use_rel_pos=True))
    images = torch.randn(1, 3, 96, 96)
    exact, rough = encoder(images), SamEncoder(encoder, bfloat16=True)(images)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.03 * exact.abs().mean()


def test_a_compiled_encoder_equals_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for any compiler; making machine code of it takes a minute and is left out."""
    traced: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Any:
        traced.append(graph)
        return lookup_backend("aot_eager")(graph, examples)

    monkeypatch.setattr(sam_encoder, "_compiled", lambda: torch.compile(sam_encoder._encode, backend=backend))
    module = drawn(
        ImageEncoderViT(
            96,
            embed_dim=48,
            depth=2,
            num_heads=3,
            out_chans=16,
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        )
    )
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        for bfloat16, tolerance in ((False, 2e-5), (True, 5e-2)):
            eager, compiled = (SamEncoder(module, bfloat16, compiled=on)(images) for on in (False, True))
            assert compiled.dtype == torch.float32
            torch.testing.assert_close(compiled, eager, atol=tolerance, rtol=tolerance)
    assert len(traced) == 2, "the encoder broke into several graphs"


def test_a_compiled_generator_can_be_copied_and_sent_to_a_process() -> None:
    encoder = SamEncoder(drawn(ImageEncoderViT(64, embed_dim=32, depth=1, num_heads=2, out_chans=16)), compiled=True)
    again = pickle.loads(pickle.dumps(copy.deepcopy(encoder)))
    assert again.compiled
    assert not again.bfloat16

"""SAM's weights: from a checkpoint file, or random."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

Size = Literal["vit_b", "vit_l", "vit_h"]

CHECKPOINTS = {"vit_b": "sam_vit_b_01ec64.pth", "vit_l": "sam_vit_l_0b3195.pth", "vit_h": "sam_vit_h_4b8939.pth"}
"""The files that Meta publishes."""

SOURCE = "https://dl.fbaipublicfiles.com/segment_anything/"

_GRID = (16, 16)

WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}


def segment_anything() -> Any:
    """The package, or one sentence on how to get it."""
    try:
        import segment_anything as package
    except ImportError as error:
        raise ImportError("SAM needs the package segment-anything: pip install 'ocl-research[sam]'.") from error
    return package


def load_sam(checkpoint: str | Path, size: Size) -> nn.Module:
    """A frozen SAM (Kirillov et al. 2023, arXiv 2304.02643) with the weights of `checkpoint`, on the CPU.

    Nothing is downloaded and no code in the file is executed.

    Args:
        checkpoint: the published file of this size, or one with the same parameters.
        size: "vit_b", "vit_l" or "vit_h".

    Raises:
        ImportError: segment-anything is not installed.
        FileNotFoundError: there is no such file; says where to get it.
        ValueError: an unknown size, or a file that does not hold the parameters of this size.
    """
    if size not in CHECKPOINTS:
        raise ValueError(f"size must be one of {', '.join(CHECKPOINTS)}, got {size!r}.")
    package, path = segment_anything(), Path(checkpoint)
    if not path.is_file():
        name = CHECKPOINTS[size]
        raise FileNotFoundError(f"There is no SAM checkpoint {path}; download {SOURCE}{name} and put it there.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is no checkpoint of weights or is cut off; get {SOURCE}{CHECKPOINTS[size]}."
        ) from error  # which says what PyTorch found, in many lines
    found = state.get("image_encoder.pos_embed") if isinstance(state, dict) else None
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"{path} holds no weights of SAM; get {SOURCE}{CHECKPOINTS[size]}.")
    if found.shape[-1] != WIDTHS[size]:
        match = next((name for name, width in WIDTHS.items() if width == found.shape[-1]), "none that is known")
        raise ValueError(f"{path} holds a SAM of size {match} (width {found.shape[-1]}), not {size}; give that size.")
    model: nn.Module = package.sam_model_registry[size]()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} does not hold the parameters of {size}: {reason}.") from error
    return model.eval().requires_grad_(False)


def random_sam(
    seed: int = 0,
    image_size: int = 1024,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    global_layers: tuple[int, ...] = (2, 5, 8, 11),
    window: int = 14,
) -> nn.Module:
    """A frozen SAM with random weights, by default of ViT-B's shape: for tests, timings and dry runs.

    Its masks mean nothing, but they are of the kind that a trained SAM gives: a blob or more per point, with predicted
    IoUs around 0.88 (see `_calibrate`). All parameters are drawn, also those that start at zero or one in training.

    Raises:
        ImportError: segment-anything is not installed.
    """
    segment_anything()
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    grid = (image_size // 16, image_size // 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoderViT(
            img_size=image_size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=global_layers,
        )
        prompts = PromptEncoder(
            embed_dim=256, image_embedding_size=grid, input_image_size=(image_size, image_size), mask_in_chans=16
        )
        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        model: nn.Module = Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "pos_embed" in name or "rel_pos" in name:
                    parameter.normal_(0, 0.1)
                elif "norm" in name:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            _calibrate(model)
    return model.eval().requires_grad_(False)


def _calibrate(model: Any) -> None:
    """Give random weights the statistics of masks: otherwise all of them cover the image in a checkerboard.

    Image tokens attend most to the prompt near them (queries and keys share a projection, whose inputs share the
    positional encoding), a token's 4 x 4 pixels are alike, and on a random image a mask covers a fifth, with logits
    that spread by 8, and half of the predicted IoUs are above 0.88.
    """
    decoder, prompts = model.mask_decoder, model.prompt_encoder
    for layer in decoder.transformer.layers:
        attention = layer.cross_attn_image_to_token
        attention.q_proj.weight.mul_(1.5)
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.out_proj.weight.mul_(4)
    first, second = decoder.output_upscaling[0], decoder.output_upscaling[3]
    for layer in (first, second):
        layer.weight.copy_(2 * layer.weight.mean((2, 3), keepdim=True) + 0.03 * layer.weight)
    networks = [network.layers[-1] for network in decoder.output_hypernetworks_mlps]
    second.weight[:, 0], second.bias[0] = 0, 5  # a channel that is 5 everywhere shifts whole masks
    for last in networks:
        last.weight[0], last.bias[0] = 0, 0
    model.image_encoder.neck[-1].weight.mul_(0.4)
    image, places = 0.4 * torch.randn(1, 256, *_GRID), torch.rand(64, 1, 2) * model.image_encoder.img_size
    sparse, _ = prompts(points=(places, torch.ones(64, 1, dtype=torch.int)), boxes=None, masks=None)
    position, dense = prompts.pe_layer(_GRID)[None], prompts.no_mask_embed.weight[..., None, None]
    logits, quality = decoder.predict_masks(image, position, sparse, dense)
    for last, masks in zip(networks, logits.transpose(0, 1), strict=True):
        factor = 8 / masks.std()
        last.weight.mul_(factor)
        last.bias.mul_(factor)
        last.bias[0] = -factor * masks.quantile(0.8) / 5
    head = decoder.iou_prediction_head.layers[-1]
    head.weight.mul_(0.05 / quality.std(dim=0)[:, None])
    head.bias.zero_()
    _, quality = decoder.predict_masks(image, position, sparse, dense)
    head.bias.copy_(0.88 - quality.median(dim=0).values)

"""SAM's mask decoder (Kirillov et al. 2023, arXiv 2304.02643) without a product as wide as the model per prompt.

In two layers, T prompt tokens (about 7) and N image tokens (4096, width D) attend to each other. What a prompt adds to
the image tokens has low rank: after l layers they are

    X = s Z + C^T B + e

with Z (N D) and e (D) the same for all prompts of an image, and per prompt a scale s (N), the attention weights C (R N)
of all updates so far and the rows B (R D) that they hand out; R = l H T. A layer norm keeps this form: it centres Z and
B, and its variance is a quadratic form in C. So the projections of Z are computed once per image (`ImageSide`),
those of B have R rows instead of N, and X itself is never formed. Parameters and result are those of segment-anything's
`MaskDecoder`, up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.sam.image_side import Exchange, ImageSide, Projection, centred


@dataclass
class Updates:
    """What prompts have added to the image tokens.

    scale, columns, rows: s (P N), C (P R N) and B (P R D).
    values: of every update (P H T d+1); B is their product with the update's handed rows.
    """

    scale: Tensor
    columns: Tensor
    rows: Tensor
    values: list[Tensor]

    def __getitem__(self, prompts: Tensor | slice) -> Updates:
        values = [each[prompts] for each in self.values]
        return Updates(self.scale[prompts], self.columns[prompts], self.rows[prompts], values)


class PromptDecoder:
    """Decodes prompts of one image: first `tokens` and `quality`, then `logits` of the masks that are wanted."""

    def __init__(self, decoder: Any, image: ImageSide) -> None:
        self.decoder, self.image = decoder, image

    def tokens(self, prompts: Tensor) -> tuple[Tensor, Updates]:
        """(P S D) embedded points and boxes -> the tokens (P T D): quality, masks, prompts; and the image updates."""
        transformer = self.decoder.transformer
        output = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        given = torch.cat([output.expand(len(prompts), -1, -1), prompts.to(output)], dim=1)
        tokens, updates = given, None
        for layer, exchange in zip(transformer.layers, self.image.exchanges, strict=True):
            if layer.skip_first_layer_pe:
                tokens = layer.norm1(layer.self_attn(q=tokens, k=tokens, v=tokens))
            else:
                placed = tokens + given
                tokens = layer.norm1(tokens + layer.self_attn(q=placed, k=placed, v=tokens))
            reading = layer.cross_attn_token_to_image
            tokens = layer.norm2(tokens + _read(reading, tokens + given, exchange.keys, exchange.values, updates))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            updates = _write(layer.cross_attn_image_to_token, tokens, tokens + given, exchange, updates)
        reading = transformer.final_attn_token_to_image
        read = _read(reading, tokens + given, self.image.keys, self.image.values, updates)
        assert updates is not None
        return transformer.norm_final_attn(tokens + read), updates

    def quality(self, tokens: Tensor) -> Tensor:
        """(P T D) -> (P M): the predicted IoU of every mask; that for unambiguous prompts, then the other three."""
        quality: Tensor = self.decoder.iou_prediction_head(tokens[:, 0])
        return quality

    def logits(self, tokens: Tensor, updates: Updates, chosen: Tensor) -> Tensor:
        """Logits (n 4h 4w) of the masks at the True entries of `chosen` (P M), in row-major order."""
        _, norm, activation, second, last_activation = self.decoder.output_upscaling
        image = self.image
        cells = torch.baddbmm(image.upscaled_offset, updates.columns.transpose(1, 2), updates.rows @ image.upscaling)
        cells = cells.addcmul_(updates.scale[..., None], image.upscaled).unflatten(-1, (4, -1))  # P N 4 c
        cells = activation(F.layer_norm(cells, cells.shape[-1:], norm.weight, norm.bias, norm.eps))
        cells = F.linear(cells, second.weight.permute(2, 3, 1, 0).flatten(0, 2), second.bias.repeat(4))
        cells = last_activation(cells).unflatten(-1, (4, -1)).flatten(1, 3)  # P (N 4 4) c
        count = self.decoder.num_mask_tokens
        mask_tokens = tokens[:, 1 : 1 + count].unbind(dim=1)
        networks = self.decoder.output_hypernetworks_mlps
        kernels = torch.stack([mlp(token) for mlp, token in zip(networks, mask_tokens, strict=True)], dim=1)
        found: Tensor = (kernels @ cells.transpose(1, 2))[chosen]  # n (N 4 4)
        height, width = image.grid
        found = found.view(-1, height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return found.reshape(-1, 4 * height, 4 * width)


def _read(attention: Any, queries: Tensor, keys: Projection, values: Projection, updates: Updates | None) -> Tensor:
    """Tokens (P T D) attend to the image tokens -> (P T D)."""
    weights = _scores(attention.q_proj(queries), keys, updates).softmax(dim=-1)  # P H T N
    prompts, heads, count, _ = weights.shape
    if updates is None:
        pooled = _times_shared(weights, values.content.mT)
    else:
        scaled = torch.empty_like(weights.transpose(0, 1), memory_format=torch.contiguous_format)
        torch.mul(weights.transpose(0, 1), updates.scale[:, None], out=scaled)
        pooled = _times_shared(scaled.transpose(0, 1), values.content.mT)
        handed = (weights.flatten(1, 2) @ updates.columns.mT) @ updates.rows  # P HT D
        pooled = pooled + handed.view(prompts, heads, count, -1) @ values.weight.mT
    if values.offset is not None:
        pooled = pooled + values.offset.mT  # the weights over N sum to 1
    read: Tensor = attention.out_proj(pooled.transpose(1, 2).flatten(2))
    return read


def _write(attention: Any, tokens: Tensor, placed: Tensor, exchange: Exchange, updates: Updates | None) -> Updates:
    """Image tokens attend to the tokens (P T D), and are normalised: X <- norm(X + e + A^T V W + bias)."""
    weights = _scores(attention.k_proj(placed), exchange.queries, updates).softmax(dim=2)
    heads = weights.shape[1]
    values = attention.v_proj(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)
    values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)  # P H T d+1
    columns, rows, given = weights.flatten(1, 2), (values @ exchange.handed).flatten(1, 2), [values]
    if updates is not None:
        columns = torch.cat([updates.columns, columns], dim=1)
        rows = torch.cat([centred(updates.rows), rows], dim=1)
        given = [*updates.values, values]
    # |s Z + C^T B|^2 = s^2 |Z|^2 + C . (2 s B Z^T + B B^T C), per image token
    inner, energy = torch.empty_like(columns), exchange.energy
    parts = inner.unflatten(1, (len(given), heads, -1)).unbind(dim=1)  # P H T N
    for part, each, shared in zip(parts, given, exchange.crossed, strict=True):
        crossed = _times_shared(each, shared)
        if updates is None:
            part.copy_(crossed)
        else:
            torch.mul(crossed, updates.scale[:, None, None], out=part)
    if updates is not None:
        energy = energy * updates.scale.square()
    inner.baddbmm_(rows @ rows.mT, columns, beta=2)
    energy = energy + inner.mul_(columns).sum(dim=1)  # P N
    scale = (energy.clamp_min(0) / rows.shape[-1] + exchange.epsilon).rsqrt()
    columns = columns * scale[:, None]
    if updates is not None:
        scale = scale * updates.scale
    return Updates(scale, columns, rows * exchange.gain, given)


def _scores(tokens: Tensor, image: Projection, updates: Updates | None) -> Tensor:
    """Projected tokens (P T Hd) with projected image tokens -> logits (P H T N)."""
    heads, width = image.weight.shape[:2]
    tokens = tokens.unflatten(-1, (heads, width)).transpose(1, 2) * width**-0.5  # P H T d
    content = _times_shared(tokens, image.content)
    if updates is None:
        return content.contiguous()
    assert image.offset is not None
    offset, scale = _times_shared(tokens, image.offset), updates.scale[:, None, None]
    scores = torch.empty_like(content, memory_format=torch.contiguous_format)
    torch.addcmul(offset, content, scale, out=scores)
    folded = (tokens @ image.weight).flatten(1, 2) @ updates.rows.mT  # P HT R
    scores.flatten(1, 2).baddbmm_(folded, updates.columns)
    return scores


def _times_shared(each: Tensor, shared: Tensor) -> Tensor:
    """(P H T a), (H a b) -> (P H T b), as one product per head for all prompts: stored with heads first."""
    prompts, heads, count, _ = each.shape
    product = torch.bmm(each.transpose(0, 1).reshape(heads, prompts * count, -1), shared)
    return product.view(heads, prompts, count, -1).transpose(0, 1)

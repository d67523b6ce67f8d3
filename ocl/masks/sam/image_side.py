"""What SAM's mask decoder computes from the image alone: once per image, for all prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Projection:
    """The image tokens through one linear layer, W (X + position) + bias, as far as it is shared.

    weight:  (H d D).
    content: (H d N), W Z^T.
    offset:  (H d N), or (H d 1) where it is the same for all tokens; None where the content holds it.
    """

    weight: Tensor
    content: Tensor
    offset: Tensor | None

    @staticmethod
    def of(linear: Any, heads: int, shared: Tensor, added: Tensor, scaled: bool) -> Projection:
        """`shared` is Z (N D), `added` (N D) or (1 D) what a token has besides, `scaled` whether s is other than 1."""
        weight = linear.weight.unflatten(0, (heads, -1))
        content = shared if scaled else shared + added
        content = F.linear(content, linear.weight, None if scaled else linear.bias)
        offset = _by_head(F.linear(added, linear.weight, linear.bias), heads) if scaled else None
        return Projection(weight, _by_head(content, heads), offset)


@dataclass
class Exchange:
    """The shared part of one layer: tokens read the image, then the image tokens are updated and normalised.

    handed:  (H d+1 D): what a unit of each value channel adds to an image token; the last channel is the constant.
    crossed: for every exchange up to this one, (H d+1 N): inner products of handed rows and Z, both centred over D.
    energy:  (N): squared length of the centred Z.
    gain, epsilon: of the layer norm.
    """

    keys: Projection
    values: Projection
    queries: Projection
    handed: Tensor
    crossed: list[Tensor]
    energy: Tensor
    gain: Tensor
    epsilon: float


class ImageSide:
    """The shared part of all layers, of the last reading and of the first upscaling.

    Args:
        decoder: segment-anything's `MaskDecoder`.
        embedding: (D h w), the image encoder's output plus the dense prompt.
        position: (D h w), the prompt encoder's dense positional encoding.
    """

    def __init__(self, decoder: Any, embedding: Tensor, position: Tensor) -> None:
        transformer = decoder.transformer
        self.heads: int = transformer.num_heads
        self.grid = embedding.shape[-2:]
        shared, places = embedding.flatten(1).T, position.flatten(1).T.to(embedding)  # N D
        constant = shared.new_zeros(1, shared.shape[1])
        handed: list[Tensor] = []
        self.exchanges: list[Exchange] = []
        for layer in transformer.layers:
            reading, writing, norm = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token, layer.norm4
            scaled = len(self.exchanges) > 0
            keys = Projection.of(reading.k_proj, self.heads, shared, constant + places, scaled)
            values = Projection.of(reading.v_proj, self.heads, shared, constant, scaled)
            queries = Projection.of(writing.q_proj, self.heads, shared, constant + places, scaled)
            # The T weights of an image token sum to 1 in each head, so a constant is one more value channel.
            channels = writing.out_proj.weight.T.unflatten(0, (self.heads, -1))  # H d D
            spread = ((constant + writing.out_proj.bias) / self.heads).expand(self.heads, 1, -1)
            handed = [centred(rows) for rows in [*handed, torch.cat([channels, spread], dim=1)]]
            shared = centred(shared)
            crossed, energy = [rows @ shared.T for rows in handed], shared.square().sum(dim=1)
            new = Exchange(keys, values, queries, handed[-1], crossed, energy, norm.weight, float(norm.eps))
            self.exchanges.append(new)
            shared, handed, constant = shared * norm.weight, [rows * norm.weight for rows in handed], norm.bias[None]
        reading = transformer.final_attn_token_to_image
        self.keys = Projection.of(reading.k_proj, self.heads, shared, constant + places, True)
        self.values = Projection.of(reading.v_proj, self.heads, shared, constant, True)
        first = decoder.output_upscaling[0]
        self.upscaling = first.weight.permute(0, 2, 3, 1).flatten(1)  # D (2 2 c)
        self.upscaled = shared @ self.upscaling
        self.upscaled_offset = constant @ self.upscaling + first.bias.repeat(4)


def centred(rows: Tensor) -> Tensor:
    """(... D) less its mean over D: the first half of a layer norm."""
    return rows - rows.mean(dim=-1, keepdim=True)


def _by_head(projected: Tensor, heads: int) -> Tensor:
    """(N Hd) -> (H d N)."""
    split: Tensor = projected.T.unflatten(0, (heads, -1))
    return split.contiguous()

"""Is the model's own attention already a probe of IsSameObject?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.binding.probes import PairProbe, over_pairs, project, symmetric


class NextAttention(PairProbe):
    """a q^T k / sqrt(D) + b with the query and key projections of the block that reads these tokens next.

    The sum over heads of q_h^T k_h is q^T k of the undivided vectors, so no head is ever cut out; it is made symmetric.
    Scale and bias are learned (two parameters; the published code has the bias only), the projections stay. Positions
    that attention itself adds (rotary, relative biases) are left out: a probe sees tokens and nothing else.

    Args:
        blocks: L blocks of a timm ViT; block l + 1 for the output of block l.
        norm: read tokens through the block's own LayerNorm, as its attention does; the published code leaves it out.

    Raises:
        ValueError: blocks whose attention is not one product of queries and keys per head, or normalises them.
    """

    projection: Tensor
    offset: Tensor

    def __init__(self, blocks: Sequence[nn.Module], norm: bool = True) -> None:
        projections = [_query_and_key(block, norm) for block in blocks]
        weights, offsets = zip(*projections, strict=True)
        super().__init__(weights[0].shape[0], len(blocks))
        self.epsilon: float | None = cast(nn.LayerNorm, blocks[0].norm1).eps if norm else None
        self.scale = nn.Parameter(torch.ones(len(blocks)))
        self.bias = nn.Parameter(torch.zeros(len(blocks)))
        self.register_buffer("projection", torch.stack(weights))  # (L D 2 D')
        self.register_buffer("offset", torch.stack(offsets))  # (L 2 D')

    def logits(self, tokens: Tensor) -> Tensor:
        if self.epsilon is not None:
            tokens = F.layer_norm(tokens, (self.dim,), eps=self.epsilon)
        query, key = (project(tokens, self.projection) + self.offset[:, None, None]).chunk(2, dim=-1)
        return symmetric(query, key) * over_pairs(self.scale / math.sqrt(self.dim)) + over_pairs(self.bias)

    def standardise(self, tokens: Tensor) -> None:
        raise ValueError("NextAttention reads tokens as the block does; do not standardise them.")


@torch.no_grad()
def _query_and_key(block: nn.Module, norm: bool) -> tuple[Tensor, Tensor]:
    """Weight (D 2 D') and offset (2 D') of queries and keys, with the norm's own scale and shift worked in."""
    attention: Any = getattr(block, "attn", None)
    plain = hasattr(attention, "q_norm") or hasattr(attention, "q_bias")  # timm's others mix heads or attend otherwise
    if not plain or not isinstance(getattr(attention, "qkv", None), nn.Linear):
        raise ValueError("NextAttention reads blocks with one linear projection `attn.qkv`; this one has none.")
    if not isinstance(getattr(attention, "q_norm", nn.Identity()), nn.Identity):
        raise ValueError("NextAttention sums over heads, but this block normalises its queries head by head.")
    width = attention.qkv.out_features // 3
    weight = attention.qkv.weight[: 2 * width].float()
    offset = weight.new_zeros(2 * width)
    if attention.qkv.bias is not None:
        offset = attention.qkv.bias[: 2 * width].float()
    elif getattr(attention, "q_bias", None) is not None:  # BEiT and EVA: none for keys
        offset[:width] = attention.q_bias.float()
    if norm:  # W (g * x + o) + c = (W diag(g)) x + (W o + c)
        layer_norm: Any = block.norm1
        if not isinstance(layer_norm, nn.LayerNorm):
            raise ValueError(f"NextAttention knows LayerNorm, not {type(layer_norm).__name__}; give norm=False.")
        if layer_norm.bias is not None:
            offset = offset + weight @ layer_norm.bias.float()
        if layer_norm.weight is not None:
            weight = weight * layer_norm.weight.float()
    return weight.mT.clone(), offset.clone()

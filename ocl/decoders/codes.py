"""The decoder of SLATE: a causal transformer names one entry of a vocabulary after the other, from the slots."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ocl.decoders.causal_decoder import CausalDecoder
from ocl.shapes import Decoded, Grouped, Slots


class CodeDecoder(CausalDecoder):
    """Logits over V entries for every token, from the embedded entries before it in raster order (Singh et al. 2022).

        l_i = O LayerNorm(blocks([BOS, x_1, ..., x_i-1], P slots))

    The tokens x are embeddings with positions (`ocl.encoders.discrete.DiscreteEncoder`), and unlike the targets of
    `AutoregressiveDecoder` they are trained through this decoder too. The blocks are the same, without dropout, where
    the published ones have one of 0.1. Masks are the grouping's attention, as published.

    Args:
        dim: slot width D.
        feature_dim: token width F, also that of the transformer. Published: 192.
        grid: (h, w) with h * w = N tokens.
        vocabulary: V.
        blocks, heads: of the transformer. Published: 4 to 8 blocks, 4 heads.

    Raises:
        ValueError: heads that do not divide F; in the forward pass, tokens or slots of other widths, slots that are
            weighed, and a grouping without attention.
    """

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        grid: tuple[int, int],
        vocabulary: int = 1024,
        blocks: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__(dim, feature_dim, grid, blocks, heads)
        self.vocabulary = vocabulary
        self.start = nn.Parameter(torch.randn(1, feature_dim))
        self.project_tokens = nn.Identity()
        self.project_slots = nn.Linear(dim, feature_dim, bias=False)
        self.logits = nn.Linear(feature_dim, vocabulary, bias=False)
        for layer in (self.project_slots, self.logits):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, grouped: Grouped) -> Decoded:
        """slots (B K D) with masks (B K h w), tokens (B N F) -> prediction (B N V), logits; masks (B K h w)."""
        slots = grouped.slots
        if slots.masks is None:
            raise ValueError("CodeDecoder needs a grouping that gives its attention as masks.")
        tokens = self._checked(grouped.features.tokens)
        read, _ = self._read(tokens, self.start, self._memories(slots))
        return Decoded(self.logits(read), slots.masks)

    @torch.no_grad()
    def generate(self, slots: Slots, embed: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Codes (B N) in raster order from slots alone: at every place the likeliest after those before it.

        embed: codes (B 1) and their raster index -> tokens (B 1 F).
        """
        found: list[Tensor] = []

        def following(predicted: Tensor, place: int) -> Tensor:
            found.append(self.logits(predicted).argmax(dim=-1))
            return embed(found[-1], place)

        for _ in self._unrolled(slots, self.start.expand(len(slots.vectors), 1, -1), following):
            pass
        return torch.cat(found, dim=1)

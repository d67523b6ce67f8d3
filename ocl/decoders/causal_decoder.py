"""What decoders share that read one token after the other: a causal transformer, at once or place by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ocl.decoders.base import GroupedDecoder
from ocl.decoders.causal import CausalBlock, Memory, Past
from ocl.shapes import Slots


class CausalDecoder(GroupedDecoder):
    """Blocks over N tokens of width F, with slots as their memory, and a last norm.

    Kinds of it set `project_tokens` and `project_slots`, which bring both to F.

    Args:
        dim: slot width D.
        feature_dim: token width F, also that of the transformer.
        grid: (h, w) with h * w = N tokens.
        blocks: how many.
        heads: of both attentions of a block; must divide F.
    """

    project_tokens: nn.Module
    project_slots: nn.Module

    def __init__(self, dim: int, feature_dim: int, grid: tuple[int, int], blocks: int, heads: int) -> None:
        super().__init__()
        if blocks < 1 or heads < 1 or feature_dim % heads:
            raise ValueError(f"needs a block and heads that divide {feature_dim}, got {blocks} and {heads}.")
        self.dim, self.feature_dim, self.grid = dim, feature_dim, (grid[0], grid[1])
        self.blocks = nn.ModuleList(CausalBlock(feature_dim, heads, blocks, first=n == 0) for n in range(blocks))
        self.norm = nn.LayerNorm(feature_dim)

    def _checked(self, tokens: Tensor) -> Tensor:
        expected = (self.grid[0] * self.grid[1], self.feature_dim)
        if tuple(tokens.shape[1:]) != expected:
            raise ValueError(f"tokens must be (B, {expected[0]}, {expected[1]}), got {tuple(tokens.shape)}.")
        return tokens

    def _read(self, tokens: Tensor, start: Tensor, memories: list[Memory]) -> tuple[Tensor, Tensor]:
        """Tokens (B N F) in an order, and its start (1 F) -> prediction (B N F), last queries (B heads N d)."""
        shifted = torch.cat([start.to(tokens.dtype).expand(len(tokens), 1, -1), tokens[:, :-1]], dim=1)
        hidden = self.project_tokens(shifted)
        for block, memory in zip(self.blocks, memories, strict=True):
            hidden, query = block(hidden, memory)
        return self.norm(hidden), query

    def _unrolled(self, slots: Slots, start: Tensor, following: Callable[[Tensor, int], Tensor]) -> Iterator[Tensor]:
        """The prediction (B 1 F) at one place after the other, from a start (B 1 F) on; `following` turns it and its
        place into the token (B 1 F) that the next place reads.

        Keys and values of earlier tokens are kept, so that every token passes the blocks once.
        """
        memories = self._memories(slots)
        count, (batch, heads, _, width) = self.grid[0] * self.grid[1], memories[0].key.shape
        shape = (batch, heads, count, width)
        pasts = [Past(memory.key.new_empty(shape), memory.key.new_empty(shape)) for memory in memories]
        token = start
        for place in range(count):
            hidden: Tensor = self.project_tokens(token)
            for block, memory, past in zip(self.blocks, memories, pasts, strict=True):
                hidden = block.step(hidden, memory, past, place)  # type: ignore[operator]
            predicted: Tensor = self.norm(hidden)
            yield predicted
            token = following(predicted, place)

    def _memories(self, slots: Slots) -> list[Memory]:
        vectors = slots.vectors
        if vectors.ndim != 3 or vectors.shape[-1] != self.dim:
            raise ValueError(f"slots must be (B, K, {self.dim}), got {tuple(vectors.shape)}.")
        if "keep" in slots.notes:
            raise ValueError("the autoregressive decoder cannot weigh slots; selection needs an MLPDecoder.")
        projected = self.project_slots(vectors)
        return [block.memory(projected, slots.valid) for block in self.blocks]  # type: ignore[operator]

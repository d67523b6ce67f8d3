"""Blocks of a causal transformer that reads slots: self-attention over earlier tokens, cross-attention to slots."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Memory(NamedTuple):
    """What a block reads of the slots, computed once: key, value (B h K d); allowed (B 1 1 K) bool."""

    key: Tensor
    value: Tensor
    allowed: Tensor


class Past(NamedTuple):
    """What a block remembers in generation: room for key, value (B h N d), of which the first tokens are filled."""

    key: Tensor
    value: Tensor


class Attention(nn.Module):
    """The four projections of multi-head attention, without biases; queries are not scaled, attention does that."""

    def __init__(self, dim: int, heads: int, gain: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.xavier_uniform_(self.output.weight, gain)

    def split(self, projected: Tensor) -> Tensor:
        """(B L D) -> (B h L d)."""
        heads: Tensor = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads

    def join(self, attended: Tensor) -> Tensor:
        """(B h L d) -> (B L D), through the last projection."""
        joined: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return joined


class CausalBlock(nn.Module):
    """Norm before each of self-attention, cross-attention and MLP (D -> 4 D -> D, ReLU), as in SLATE and SPOT.

    The first block of a stack also normalises what flows around its self-attention. The last projection of every part
    starts smaller by (3 x blocks)^-1/2.
    """

    def __init__(self, dim: int, heads: int, blocks: int, first: bool) -> None:
        super().__init__()
        gain = (3 * blocks) ** -0.5
        self.first = first
        self.norm_self, self.norm_cross, self.norm_mlp = (nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = Attention(dim, heads, gain)
        self.cross_attention = Attention(dim, heads, gain)
        widen, narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        nn.init.kaiming_uniform_(widen.weight, nonlinearity="relu")
        nn.init.xavier_uniform_(narrow.weight, gain)
        for layer in (widen, narrow):
            nn.init.zeros_(layer.bias)
        self.mlp = nn.Sequential(widen, nn.ReLU(), narrow)

    def memory(self, slots: Tensor, valid: Tensor) -> Memory:
        """slots (B K D), valid (B K) bool."""
        cross = self.cross_attention
        return Memory(cross.split(cross.key(slots)), cross.split(cross.value(slots)), valid[:, None, None])

    def forward(self, tokens: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """tokens (B L D) -> tokens after the block and the queries (B h L d) that were put to the slots."""
        normed = self.norm_self(tokens)
        own = self.self_attention
        query, key, value = (own.split(layer(normed)) for layer in (own.query, own.key, own.value))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._rest(normed if self.first else tokens, own.join(attended), memory)

    def step(self, token: Tensor, memory: Memory, past: Past, place: int) -> Tensor:
        """The block at one place, all earlier ones being in `past`, where this one is added: (B 1 D) -> (B 1 D)."""
        normed = self.norm_self(token)
        own = self.self_attention
        for room, layer in ((past.key, own.key), (past.value, own.value)):
            room[:, :, place : place + 1] = own.split(layer(normed))
        key, value = (room[:, :, : place + 1] for room in past)
        attended = F.scaled_dot_product_attention(own.split(own.query(normed)), key, value)
        return self._rest(normed if self.first else token, own.join(attended), memory)[0]

    def _rest(self, tokens: Tensor, update: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        tokens = tokens + update
        cross = self.cross_attention
        query = cross.split(cross.query(self.norm_cross(tokens)))
        tokens = tokens + cross.join(F.scaled_dot_product_attention(query, *memory))
        return tokens + self.mlp(self.norm_mlp(tokens)), query


def attention_to_slots(query: Tensor, memory: Memory) -> Tensor:
    """Queries (B h L d) -> (B K L) in float32 at least: the cross-attention's weights, averaged over heads."""
    logits = query @ memory.key.mT * query.shape[-1] ** -0.5  # (B h L K)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    shares: Tensor = logits.masked_fill(~memory.allowed, -torch.inf).softmax(dim=-1, dtype=dtype)
    return shares.mean(dim=1).mT

"""SAM's image encoder (a ViT with windows and relative positions) without its attention maps in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES = 512
"""Queries whose position bias is held at a time: 4096 x 4096 x heads would be most of the encoder's memory."""


class SamEncoder:
    """segment-anything's `ImageEncoderViT` with fused attention: (B 3 S S) normalised -> (B D h w).

    The position bias is a sum of a row and a column term per query, so it is made for some queries at a time and given
    to the fused attention. Padding of windows is made after the projections, where it is their bias.

    Args:
        encoder: the package's module; its weights are used in place.
        bfloat16: run under bfloat16 autocast.
        compiled: with torch.compile: slow first call, worth it for many images.
    """

    def __init__(self, encoder: Any, bfloat16: bool = False, compiled: bool = False) -> None:
        self.encoder, self.bfloat16, self.compiled = encoder, bfloat16, compiled

    def __call__(self, images: Tensor) -> Tensor:
        encode = _compiled() if self.compiled else _encode
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            return encode(self.encoder, images).to(images.dtype)


@cache
def _compiled() -> Callable[[Any, Tensor], Tensor]:
    """One for all encoders, and no part of any, so that they can be copied and sent to other processes."""
    return torch.compile(_encode)


def _encode(encoder: Any, images: Tensor) -> Tensor:
    tokens: Tensor = encoder.patch_embed(images)  # B h w D
    if encoder.pos_embed is not None:
        tokens = tokens + encoder.pos_embed
    for block in encoder.blocks:
        tokens = tokens + _attend(block.attn, block.norm1(tokens), block.window_size)
        tokens = tokens + block.mlp(block.norm2(tokens))
    embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return embedding


def _attend(attention: Any, tokens: Tensor, window: int) -> Tensor:
    """(B h w D) -> (B h w D): everywhere, or within windows of `window` x `window` tokens where that is not 0."""
    batch, height, width, _ = tokens.shape
    projected = attention.qkv(tokens)
    if not window:
        return attention.proj(_attention(attention, projected))  # type: ignore[no-any-return]
    rows, columns = -(-height // window), -(-width // window)
    windows = projected.new_zeros(batch, rows * window, columns * window, projected.shape[-1])
    if attention.qkv.bias is not None:
        windows += attention.qkv.bias.to(windows.dtype)  # what padding of zeros is projected to
    windows[:, :height, :width] = projected
    windows = windows.view(batch, rows, window, columns, window, -1).transpose(2, 3).flatten(0, 2)
    mixed = _attention(attention, windows).view(batch, rows, columns, window, window, -1).transpose(2, 3)
    mixed = mixed.reshape(batch, rows * window, columns * window, -1)[:, :height, :width]
    return attention.proj(mixed)  # type: ignore[no-any-return]


def _attention(attention: Any, projected: Tensor) -> Tensor:
    """Queries, keys and values (B h w 3D) -> (B h w D)."""
    height, width = projected.shape[1:3]
    split = projected.flatten(1, 2).unflatten(-1, (3, attention.num_heads, -1))
    queries, keys, values = split.permute(2, 0, 3, 1, 4)  # B heads N d
    if not attention.use_rel_pos:
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
    else:
        grid = queries.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, _relative(attention.rel_pos_h, height)).flatten(2, 3)
        by_column = torch.einsum("bnhwd,wkd->bnhwk", grid, _relative(attention.rel_pos_w, width)).flatten(2, 3)
        parts = zip(*(each.split(_QUERIES, dim=2) for each in (queries, by_row, by_column)), strict=True)
        done = []
        for some, row, column in parts:
            bias = (row[..., :, None] + column[..., None, :]).flatten(-2).to(some.dtype)  # B heads n N
            done.append(F.scaled_dot_product_attention(some, keys, values, attn_mask=bias, scale=attention.scale))
        mixed = torch.cat(done, dim=2)
    joined: Tensor = mixed.transpose(1, 2).flatten(2).unflatten(1, (height, width))
    return joined


def _relative(table: Tensor, size: int) -> Tensor:
    """Relative positions (2 S - 1, d) -> (size, size, d): that of every query and key; resampled for other S."""
    if len(table) != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    places = torch.arange(size, device=table.device)
    return table[places[:, None] - places + size - 1]

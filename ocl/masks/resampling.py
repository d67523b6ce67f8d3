"""Bilinear resampling of one square per mask, all masks at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class Squares:
    """One axis-parallel square per mask, in whole pixels; it may reach beyond the image.

    left, top, side: (B K) int64; or (B 1), the same for all masks of an image.
    largest:         no side is above it. Known without reading `side`, so that a device need not wait for it.
    """

    left: Tensor
    top: Tensor
    side: Tensor
    largest: int

    def flat(self, count: int) -> Squares:
        """(B K) or (B 1) -> (B*K 1) with K = `count`: every mask is taken for an image with one square."""
        left, top, side = (line.expand(-1, count).reshape(-1, 1) for line in (self.left, self.top, self.side))
        return Squares(left, top, side, self.largest)


def resample(images: Tensor, squares: Squares, size: tuple[int, int]) -> Tensor:
    """Cut each square out, with zeros beyond the image, and resize it to `size` bilinearly with antialiasing.

    Equal to padding, cropping and `torchvision.transforms.functional.resize(crop, size, antialias=True)` mask by mask:
    when shrinking by a factor s > 1 a pixel weighs its neighbours within s by a triangle, otherwise within 1. Both
    axes are sparse matrices with `ceil(2 max(s, 1))` entries per row, applied one after the other; the K squares of an
    image read the same table.

    Args:
        images: (B c H W) floating, or bool as 0 and 1.
        squares: (B K).
        size: (h, w) of the output.

    Returns:
        (B K c h w) in the images' dtype, float32 for bool; differentiable with respect to `images`.
    """
    batch, channels, height, width = images.shape
    dtype = images.dtype if images.is_floating_point() else torch.float32
    count = squares.side.shape[1]
    if batch * count == 0:
        return images.new_zeros(batch, count, channels, *size, dtype=dtype)
    index, weight = _taps(squares.left, squares.side, squares.largest, size[1], width)
    table = images.permute(0, 3, 1, 2).reshape(batch * width, channels * height).to(dtype)
    rows = _mix(table, index + width * _arange(batch, index)[:, None, None, None], weight.to(dtype))
    rows = rows.view(batch * count, size[1], channels, height).permute(0, 3, 2, 1)  # (B*K H c w)
    index, weight = _taps(squares.top.view(-1), squares.side.view(-1), squares.largest, size[0], height)
    table = rows.reshape(batch * count * height, channels * size[1])
    rows = _mix(table, index + height * _arange(batch * count, index)[:, None, None], weight.to(dtype))
    return rows.view(batch, count, size[0], channels, size[1]).transpose(2, 3)


def _taps(start: Tensor, side: Tensor, largest: int, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Which pixels of a line of `length` each output pixel mixes: index int64 and weight float64, both (... size n)."""
    count = math.ceil(2 * max(largest / size, 1.0))
    scale = side.double()[..., None, None] / size
    support = scale.clamp(min=1.0)
    centre = (_arange(size, start)[:, None] + 0.5) * scale  # (... size 1), in pixels from the start
    place = (centre - support - 0.5).ceil() + _arange(count, start)
    weight = (1 - (place + 0.5 - centre).abs() / support).clamp(min=0)
    weight = weight * ((place >= 0) & (place < side[..., None, None]))
    weight = weight / weight.sum(-1, keepdim=True)
    pixel = place.long() + start[..., None, None]
    inside = (pixel >= 0) & (pixel < length)
    return pixel.clamp(0, length - 1), weight * inside


def _mix(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """(R D) rows, index and weight (... n) -> (rows D): weighted sums of n rows each, without the gathered tensor."""
    count = index.shape[-1]
    return F.embedding_bag(
        index.reshape(-1, count),
        table.contiguous(),  # the kernel is seven times slower on a strided view
        mode="sum",
        per_sample_weights=weight.reshape(-1, count),
    )


def _arange(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, device=like.device)

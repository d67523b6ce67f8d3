"""Spatial broadcast decoder: every slot paints an image and a mask; the masks compete per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.position import PositionEmbedding
from ocl.shapes import Decoded, softmax_over_slots


class BroadcastDecoder(nn.Module):
    """Tile each slot over a grid, add a position embedding, and run transposed convolutions to RGB and alpha.

        (R_k, alpha_k) = CNN(tile(s_k) + position);  m = softmax over k of alpha;  prediction = sum over k of m_k R_k

    The published decoder starts from 8 x 8 with strides (2, 2, 2, 2, 1) and ends with a 3 x 3 layer to four
    channels; RGB is not squashed and lives in [-1, 1] (Locatello et al. 2020). The first convolution sees a slot that
    is constant over the grid plus a map that is the same for all slots, and is computed as just that:
    conv(tile(s) + p) = M s + conv(p), with M the layer's response to constant inputs (exact, borders included).

    Args:
        dim: slot width D.
        grid: (h, w) of the first map.
        channels: width of the hidden maps.
        strides: one per hidden transposed convolution; the grid times all strides is the image size.
        kernel_size: of the hidden layers; odd.
        output_stride: of the last layer, whose kernel is two wider than it (published: 1, a 3 x 3 kernel). At 2 the
            hidden maps stay at half the image size, which makes a small decoder several times cheaper.
    """

    def __init__(
        self,
        dim: int = 64,
        grid: tuple[int, int] = (8, 8),
        channels: int = 64,
        strides: Sequence[int] = (2, 2, 2, 2, 1),
        kernel_size: int = 5,
        output_stride: int = 1,
    ) -> None:
        super().__init__()
        if not strides or kernel_size % 2 == 0:
            raise ValueError(f"needs at least one hidden layer and an odd kernel, got {list(strides)}, {kernel_size}.")
        self.dim = dim
        self.grid = (grid[0], grid[1])
        self.position = PositionEmbedding(dim, self.grid)
        layers = [
            nn.ConvTranspose2d(
                dim if index == 0 else channels,
                channels,
                kernel_size,
                stride,
                kernel_size // 2,
                output_padding=stride - 1,
            )
            for index, stride in enumerate(strides)
        ]
        self.first = layers[0]
        self.hidden = nn.Sequential(nn.ReLU(), *(part for layer in layers[1:] for part in (layer, nn.ReLU())))
        self.output = nn.ConvTranspose2d(channels, 4, output_stride + 2, output_stride, 1)
        glorot_(self)

    def forward(self, slots: Tensor, keep: Tensor | None = None) -> Decoded:
        """slots (B K D) -> prediction (B 3 H W) in [-1, 1], masks (B K H W)."""
        batch, count, dim = slots.shape
        if dim != self.dim:
            raise ValueError(f"slots must be (B, K, {self.dim}), got {tuple(slots.shape)}.")
        maps = self.hidden(self._first(slots.flatten(0, 1)))
        painted = self.output(maps).unflatten(0, (batch, count))  # (B K 4 H W)
        masks = softmax_over_slots(painted[:, :, 3], keep)
        prediction = torch.einsum("bkhw,bkchw->bchw", masks.to(painted.dtype), painted[:, :, :3])
        return Decoded(prediction, masks)

    def _first(self, slots: Tensor) -> Tensor:
        """First hidden layer before ReLU: slots (BK D) -> (BK C h' w')."""
        layer: Any = self.first
        respond = partial(
            F.conv_transpose2d, stride=layer.stride, padding=layer.padding, output_padding=layer.output_padding
        )
        # Response of each (input, output) channel pair to a constant, from one map of ones. Channels stay last, the
        # memory layout in which the convolutions that follow are fastest.
        ones = slots.new_ones(1, 1, *self.grid)
        response = respond(ones, layer.weight.flatten(0, 1).unsqueeze(0))[0].unflatten(0, (self.dim, -1))  # (D C h' w')
        static = respond(self.position().unsqueeze(0), layer.weight, layer.bias)[0].movedim(0, -1)  # (h' w' C)
        mixed = slots @ response.movedim(1, -1).flatten(1)  # (BK h'w'C)
        maps: Tensor = (mixed.view(-1, *static.shape) + static).movedim(-1, 1)
        return maps

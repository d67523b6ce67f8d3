"""The convolutional encoder of Slot Attention, at full resolution or strided."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.position import PositionEmbedding
from ocl.shapes import Features


class CNNEncoder(nn.Module):
    """Convolutions with ReLU, position embedding, then LayerNorm and a two-layer MLP per token.

    The published object-discovery encoder is the default: four 5 x 5 convolutions of 64 channels with stride 1
    (N = H W tokens); `strides=(1, 2, 2, 1)` is the published set-prediction encoder (N = H W / 16). Glorot weights and
    zero biases, as in the official code.

    Args:
        image_size: (H, W); the position embedding belongs to one size.
        dim: token width D.
        channels: width of every convolution.
        strides: one per convolution.
        kernel_size: odd, so that stride 1 keeps the size.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        dim: int = 64,
        channels: int = 64,
        strides: Sequence[int] = (1, 1, 1, 1),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd to keep the size at stride 1, got {kernel_size}.")
        self.image_size = (image_size[0], image_size[1])
        self.dim = dim
        height, width = self.image_size
        layers: list[nn.Module] = []
        for index, stride in enumerate(strides):
            incoming = 3 if index == 0 else channels
            layers += [nn.Conv2d(incoming, channels, kernel_size, stride, kernel_size // 2), nn.ReLU()]
            height, width = -(-height // stride), -(-width // stride)
        self.grid = (height, width)
        self.convolutions = nn.Sequential(*layers)
        self.position = PositionEmbedding(channels, self.grid)
        self.head = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, dim)
        )
        glorot_(self)

    def forward(self, images: Tensor) -> Features:
        """images (B 3 H W) float in [0, 1] -> tokens (B N D). They are mapped to [-1, 1] first, as published."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floating in [0, 1], got {images.dtype}; ocl.shapes.images_as_float helps.")
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images must be (B, 3, {self.image_size[0]}, {self.image_size[1]}), got {tuple(images.shape)}."
            )
        # The module may have been cast, to halves or doubles. Channels last: the layout in which convolutions, and the
        # tokens made of their maps, are fastest.
        images = images.to(self.position.ramps.dtype).contiguous(memory_format=torch.channels_last)
        maps = self.convolutions(images * 2 - 1) + self.position()  # (B C h w)
        return Features(self.head(maps.flatten(2).mT), self.grid)

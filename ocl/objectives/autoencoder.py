"""Convolutional features pretrained by reconstruction: an autoencoder whose bottleneck is a grid of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.objectives.base import EncoderObjective
from ocl.shapes import Batch, Features


class ImageDecoder(nn.Module):
    """Transposed convolutions with ReLU from a grid of tokens to an image: (B N D) in raster order -> (B 3 H W).

    Args:
        dim: D.
        grid: (h, w) with h * w = N.
        channels: width of the hidden maps.
        strides: one per layer; the image is the grid times their product.
        kernel_size: odd.

    Raises:
        ValueError: no layer, a stride below 1 or an even kernel.
    """

    def __init__(
        self,
        dim: int,
        grid: tuple[int, int],
        channels: int = 64,
        strides: Sequence[int] = (2, 2, 2),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if not strides or min(strides) < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"ImageDecoder needs strides of at least 1 and an odd kernel, got {list(strides)} and {kernel_size}."
            )
        self.dim = dim
        self.grid = (grid[0], grid[1])
        factor = math.prod(strides)
        self.image_size = (factor * grid[0], factor * grid[1])
        widths = [dim, *[channels] * (len(strides) - 1), 3]
        layers: list[nn.Module] = []
        for (incoming, width), stride in zip(pairwise(widths), strides, strict=True):
            layers += [
                nn.ConvTranspose2d(incoming, width, kernel_size, stride, kernel_size // 2, stride - 1),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers[:-1])
        glorot_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        # A view with channels last: the layout in which convolutions are fastest.
        maps = tokens.unflatten(1, self.grid).permute(0, 3, 1, 2)  # (B D h w)
        image: Tensor = self.layers(maps)
        return image


class Autoencoder(EncoderObjective):
    """Mean squared error between an image and what a decoder makes of its tokens.

    The tokens are narrower than the patches that they stand for, and nothing else keeps the encoder from copying.
    Published comparisons of representations for agents have no such row; it is here as the plain answer to "the same
    convolutions, pretrained on the same frames".

    Args:
        encoder: images (B 3 H W) -> `Features`; is trained and kept.
        decoder: of its tokens.

    Raises:
        ValueError: an encoder and a decoder that do not fit each other.
    """

    def __init__(self, encoder: nn.Module, decoder: ImageDecoder) -> None:
        super().__init__()
        own: Any = encoder
        if (own.dim, tuple(own.grid), tuple(own.image_size)) != (decoder.dim, decoder.grid, decoder.image_size):
            raise ValueError(
                f"the encoder turns images of {tuple(own.image_size)} into {tuple(own.grid)} tokens of {own.dim}, the "
                f"decoder {decoder.grid} tokens of {decoder.dim} into images of {decoder.image_size}; change either."
            )
        self.encoder, self.decoder = encoder, decoder

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.reconstruct(batch.images).float(), batch.images)}

    def reconstruct(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) in [0, 1] -> the same shape, not bounded."""
        features: Features = self.encoder(images)
        image: Tensor = self.decoder(features.tokens)
        return image

    def pictures(self, images: Tensor) -> list[Tensor]:
        """The reconstruction."""
        return [self.reconstruct(images).clamp(0, 1)]

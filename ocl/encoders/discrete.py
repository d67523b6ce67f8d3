"""Images as grids of entries of a vocabulary: the discrete autoencoder of SLATE and what slots are made of there."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.feature_types import CodedFeatures
from ocl.hooks import AfterStep


class DiscreteAutoencoder(nn.Module):
    """A convolutional autoencoder (dVAE) whose bottleneck names one of V entries for every 4 x 4 patch of the image.

    Encoder: one 4 x 4 convolution of stride 4, six of 1 x 1, then V logits. Decoder: two rounds of convolutions that
    double the size by pixel shuffling. Each convolution but the last of both has no bias and is followed by a norm over
    the whole map and ReLU (Singh et al. 2022, arXiv 2110.11405). Images are in [0, 1].

    Args:
        vocabulary: V. Published: 1024 or 4096.
        channels: width of the hidden maps. Published: 64.
    """

    patch = 4

    def __init__(self, vocabulary: int = 1024, channels: int = 64) -> None:
        super().__init__()
        if vocabulary < 2 or channels < 1:
            raise ValueError(f"needs a vocabulary of at least 2 and a channel, got {vocabulary} and {channels}.")
        self.vocabulary = vocabulary
        width = channels
        self.encoder = nn.Sequential(
            _Block(3, width, 4, 4), *(_Block(width, width) for _ in range(6)), _last(width, vocabulary)
        )
        self.first = _Block(vocabulary, width)
        doubling = [
            [_Block(width, width, 3), _Block(width, width), _Block(width, width), _Block(width, 4 * width)]
            for _ in range(2)
        ]
        self.decoder = nn.Sequential(
            *(part for blocks in doubling for part in (*blocks, nn.PixelShuffle(2))), _last(width, 3)
        )

    def logits(self, images: Tensor) -> Tensor:
        """(B 3 H W) in [0, 1] -> (B V h w), h = H / 4 and w = W / 4, up to a constant for every patch."""
        logits: Tensor = self.encoder(images.contiguous(memory_format=torch.channels_last))
        return logits

    def paint_shares(self, shares: Tensor) -> Tensor:
        """(B V h w), shares of the entries in every patch, which sum to one -> (B 3 H W), not bounded."""
        painted: Tensor = self.decoder(self.first(shares))
        return painted

    def paint(self, codes: Tensor) -> Tensor:
        """(B h w) int64, one entry for every patch -> (B 3 H W), not bounded.

        What the first convolution, of 1 x 1, makes of an indicator of V channels is a column of its weights.
        """
        columns = self.first.convolution.weight.flatten(1).mT  # (V C)
        painted: Tensor = self.decoder(self.first.normalised(F.embedding(codes, columns).movedim(-1, 1)))
        return painted


class DiscreteEncoder(nn.Module, AfterStep):
    """Tokens (B N F) that are embeddings of the autoencoder's entries, plus learned positions (SLATE).

    In training the autoencoder paints shares that are drawn anew for every image, softmax((l + g) / temperature) with
    Gumbel noise g, and codes are drawn from its distribution: the largest l + g of another draw. The temperature falls
    by half a cosine over the first `annealing_steps` optimiser steps. In eval mode codes are the likeliest entries,
    and the autoencoder paints those. No gradient runs through codes: the autoencoder learns from its own error alone.

    Embeddings and positions start from N(0, 1), as published, where there is also a dropout of 0.1 on their sum.

    Args:
        image_size: (H, W), multiples of 4.
        autoencoder: of the images.
        dim: token width F. Published: 192.
        temperature: first and last.
        annealing_steps: between the two.

    Raises:
        ValueError: a size that is no multiple of 4, temperatures that are not positive or rise, or no step; in the
            forward pass, images of another size.
    """

    step: Tensor

    def __init__(
        self,
        image_size: tuple[int, int],
        autoencoder: DiscreteAutoencoder,
        dim: int = 192,
        temperature: tuple[float, float] = (1.0, 0.1),
        annealing_steps: int = 30_000,
    ) -> None:
        super().__init__()
        if any(side < 1 or side % autoencoder.patch for side in image_size):
            raise ValueError(f"image_size must be multiples of {autoencoder.patch}, got {tuple(image_size)}.")
        if not 0 < temperature[1] <= temperature[0] or annealing_steps < 1:
            raise ValueError(
                f"temperatures must be positive and must not rise, over at least one step, got {tuple(temperature)} "
                f"and {annealing_steps}."
            )
        self.image_size = (image_size[0], image_size[1])
        self.grid = (image_size[0] // autoencoder.patch, image_size[1] // autoencoder.patch)
        self.dim, self.temperatures, self.annealing_steps = dim, (temperature[0], temperature[1]), annealing_steps
        self.autoencoder = autoencoder
        self.dictionary = nn.Embedding(autoencoder.vocabulary, dim)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(self.grid[0] * self.grid[1], dim)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved: a resumed run goes on from here

    @property
    def temperature(self) -> Tensor:
        """() float32, a tensor on the module's device, so that no step waits for it."""
        first, last = self.temperatures
        progress = (self.step / self.annealing_steps).clamp(max=1)
        return last + (first - last) * 0.5 * (1 + torch.cos(torch.pi * progress))

    def forward(self, images: Tensor) -> CodedFeatures:
        """images (B 3 H W) float in [0, 1] -> tokens (B N F), codes (B N) and what is painted (B 3 H W)."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images must be (B, 3, {self.image_size[0]}, {self.image_size[1]}), got {tuple(images.shape)}."
            )
        logits = self.autoencoder.logits(images).float()  # (B V h w)
        noisy = logits.detach() + gumbel(logits) if self.training else logits
        codes = noisy.argmax(dim=1)  # (B h w)
        flat = codes.flatten(1)
        painted = partial(self._paint_drawn, logits) if self.training else partial(self.autoencoder.paint, codes)
        return CodedFeatures(self.embed(flat), flat, painted, self.grid)

    def embed(self, codes: Tensor, place: int = 0) -> Tensor:
        """Codes (B n) of n patches in a row, from the raster index `place` on -> tokens (B n F)."""
        tokens: Tensor = self.dictionary(codes) + self.position[place : place + codes.shape[1]]
        return tokens

    def paint(self, codes: Tensor) -> Tensor:
        """Codes (B N) in raster order -> images (B 3 H W), not bounded."""
        return self.autoencoder.paint(codes.unflatten(1, self.grid))

    def after_step(self) -> None:
        self.step += 1

    def _paint_drawn(self, logits: Tensor) -> Tensor:
        return self.autoencoder.paint_shares(((logits + gumbel(logits)) / self.temperature).softmax(dim=1))


class _Block(nn.Module):
    """Convolution without bias that keeps the size (or divides it by its stride), norm over all channels, ReLU."""

    def __init__(self, incoming: int, width: int, kernel_size: int = 1, stride: int = 1) -> None:
        super().__init__()
        pad = kernel_size // 2 if stride == 1 else 0
        self.convolution = nn.Conv2d(incoming, width, kernel_size, stride, pad, bias=False)
        nn.init.kaiming_uniform_(self.convolution.weight, nonlinearity="relu")
        self.norm = nn.GroupNorm(1, width)

    def normalised(self, maps: Tensor) -> Tensor:
        """What follows the convolution."""
        return F.relu(self.norm(maps))

    def forward(self, maps: Tensor) -> Tensor:
        return self.normalised(self.convolution(maps))


def _last(incoming: int, width: int) -> nn.Conv2d:
    layer = nn.Conv2d(incoming, width, 1)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def gumbel(like: Tensor) -> Tensor:
    """Independent draws of the standard Gumbel distribution, in the shape of `like`: the largest of l + g is entry i
    with the probability softmax(l)_i."""
    return -torch.empty_like(like).exponential_().clamp_min(torch.finfo(like.dtype).tiny).log()

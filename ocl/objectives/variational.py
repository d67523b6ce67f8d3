"""A variational autoencoder: one vector per image, with a prior that it must not stray from."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.encoders.gaussian import GaussianEncoder
from ocl.initialisation import glorot_
from ocl.objectives.autoencoder import ImageDecoder
from ocl.objectives.base import EncoderObjective
from ocl.shapes import Batch


class VectorDecoder(nn.Module):
    """One linear layer with ReLU from a vector to the tokens that an `ImageDecoder` reads: (B D) -> (B 3 H W)."""

    def __init__(self, dim: int, tokens: ImageDecoder) -> None:
        super().__init__()
        self.dim, self.image_size = dim, tokens.image_size
        self.spread = nn.Linear(dim, tokens.grid[0] * tokens.grid[1] * tokens.dim)
        glorot_(self.spread)
        self.tokens = tokens

    def forward(self, vectors: Tensor) -> Tensor:
        tokens = self.spread(vectors).relu().unflatten(1, (-1, self.tokens.dim))  # (B N C)
        image: Tensor = self.tokens(tokens)
        return image


class VariationalAutoencoder(EncoderObjective):
    """The evidence lower bound (Kingma and Welling 2014, arXiv 1312.6114) with a weight on the prior (Higgins et al.
    2017, beta-VAE), in nats per image:

        loss = E over z from q(z | x) of 1/2 |x - decode(z)|^2  +  beta KL(q(z | x) || N(0, I))

    Pixels are Gaussian with variance 1 around the decoder's output; the constant H W 3 / 2 log 2 pi is left out. A
    variance v in its place would weigh the two terms as beta v does, so beta is the one knob.

    Args:
        encoder: is trained and kept.
        decoder: z (B D) -> images (B 3 H W), with `dim` and `image_size`.
        beta: 1 is the bound itself. The published VAE for agents on sprites takes 5 and a D of 256, beside a likelihood
            of pixels that we do not know.

    Raises:
        ValueError: a negative beta, or an encoder and a decoder that do not fit each other.
    """

    encoder: GaussianEncoder

    def __init__(self, encoder: GaussianEncoder, decoder: nn.Module, beta: float = 1.0) -> None:
        super().__init__()
        own: Any = decoder
        if beta < 0:
            raise ValueError(f"beta must be at least 0, got {beta}.")
        if (encoder.dim, tuple(encoder.image_size)) != (own.dim, tuple(own.image_size)):
            raise ValueError(
                f"the encoder turns images of {tuple(encoder.image_size)} into vectors of {encoder.dim}, the decoder "
                f"vectors of {own.dim} into images of {tuple(own.image_size)}; change either."
            )
        self.encoder, self.decoder, self.beta = encoder, decoder, beta

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        mean, log_variance = self.encoder.distribution(batch.images)
        prediction = self.decoder(sample(mean, log_variance)).float()
        error = (prediction - batch.images).square().flatten(1).sum(dim=1).mean() / 2
        kl = kl_to_standard_normal(mean, log_variance).mean()
        return {"loss": error + self.beta * kl, "reconstruction": error, "kl": kl}

    def pictures(self, images: Tensor) -> list[Tensor]:
        """What is decoded from the mean of q, and images from the prior."""
        painted = self.decoder(self.encoder(images))
        invented = self.decoder(torch.randn(len(images), self.encoder.dim, device=images.device))
        return [painted.clamp(0, 1), invented.clamp(0, 1)]


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B D) and (B D) -> (B,): KL(N(mean, exp log_variance) || N(0, 1)) in nats, summed over D."""
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1) / 2


def sample(mean: Tensor, log_variance: Tensor) -> Tensor:
    """One draw from each of the Gaussians (B D), with gradients to both arguments."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)

"""One Gaussian over latent vectors per image: the encoder of a variational autoencoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.shapes import Features


class GaussianEncoder(nn.Module):
    """One linear layer from all tokens of another encoder to the mean and the log variance of q(z | image).

    `forward` gives the mean, which is what the frozen encoder is used for.

    Args:
        tokens: images (B 3 H W) -> `Features`, with `image_size`, `grid` and `dim`.
        dim: D of z.
    """

    def __init__(self, tokens: nn.Module, dim: int = 256) -> None:
        super().__init__()
        own: Any = tokens
        self.tokens = tokens
        self.image_size: tuple[int, int] = own.image_size
        self.dim = dim
        self.head = nn.Linear(own.grid[0] * own.grid[1] * own.dim, 2 * dim)
        glorot_(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) float in [0, 1] -> mean (B D)."""
        return self.distribution(images)[0]

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B 3 H W) float in [0, 1] -> mean and log variance, both (B D) float32."""
        features: Features = self.tokens(images)
        mean, log_variance = self.head(features.tokens.flatten(1)).float().chunk(2, dim=-1)
        return mean, log_variance

"""Training on tokens that were computed before: a frozen encoder whose work may already be done."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from ocl.describe import class_path, fingerprint, plain_attributes
from ocl.shapes import Features


class CachedEncoder(nn.Module):
    """A frozen encoder of images that takes its own tokens for images, where `ocl.data.stored_tokens` gives them.

    The one change to a model that is trained from a store. The encoder itself stays part of it: with it the tokens'
    origin is checked, and the trained model reads images.

    Args:
        encoder: images (B 3 H W) float in [0, 1] -> `Features`, with `image_size`, `grid` and `dim`; nothing of it may
            be trained, as tokens on disk do not learn.

    Raises:
        ValueError: an encoder that is trained.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            raise ValueError(f"CachedEncoder stands for a frozen encoder, but {type(encoder).__name__} is trained.")
        inner: Any = encoder
        self.encoder = inner
        self.image_size: tuple[int, int] = inner.image_size
        self.grid: tuple[int, int] = inner.grid
        self.dim: int = inner.dim
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """images (B 3 H W), or stored tokens (B 1 N D) -> tokens (B N D) float32.

        Raises:
            ValueError: tokens of another shape than the encoder's.
        """
        if images.shape[-3] != 1:
            features: Features = self.encoder(images)
            return features
        if tuple(images.shape[1:]) != (1, self.grid[0] * self.grid[1], self.dim):
            found = f"{images.shape[-2]} tokens of width {images.shape[-1]}"
            raise ValueError(
                f"the encoder gives {self.grid[0]} x {self.grid[1]} tokens of width {self.dim}, not {found}."
            )
        return Features(images.squeeze(1).float(), self.grid)


def identity(encoder: nn.Module) -> dict[str, Any]:
    """What makes an image encoder's tokens its own, in JSON's types: class, plain attributes and fingerprint."""
    attributes = {name: value for name, value in plain_attributes(encoder).items() if name != "training"}
    return {"class": class_path(encoder), **attributes, "fingerprint": fingerprint(encoder)}

"""Reconstruction losses: pixels or frozen features, mean squared error over all elements."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Batch, Output


class PixelReconstruction(nn.Module):
    """Mean squared error between the predicted and the true image, both in [-1, 1] (Locatello et al. 2020).

    Where the decoder paints a smaller image, the true one is averaged down to it.

    Raises:
        ValueError: a decoder that paints a larger image.

    Args:
        gamma: the true image is raised to this power (in [0, 1]) before comparison. Published: 1. Below 1 dark colours
            count for more: at 1 a green of 128 on black weighs an eighth of yellow, and slots ignore it for long.
    """

    def __init__(self, gamma: float = 1.0) -> None:
        super().__init__()
        if gamma <= 0:
            raise ValueError(f"gamma must be positive, got {gamma}.")
        self.gamma = gamma

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target = batch.images if self.gamma == 1 else batch.images**self.gamma
        prediction = output.decoded.prediction
        if prediction.shape != target.shape:
            painted, true = tuple(prediction.shape[-2:]), tuple(target.shape[-2:])
            if painted[0] > true[0] or painted[1] > true[1]:
                raise ValueError(
                    f"the decoder paints {painted} pixels, the images have {true}; change its grid or strides."
                )
            target = F.interpolate(target, painted, mode="area")
        return F.mse_loss(prediction.float(), target * 2 - 1)


class FeatureReconstruction(nn.Module):
    """Mean squared error to the encoder's own tokens (B N F), which carry no gradient (DINOSAUR)."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return F.mse_loss(output.decoded.prediction.float(), output.features.tokens.detach().float())

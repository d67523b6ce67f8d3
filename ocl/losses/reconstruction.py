"""Reconstruction losses: pixels or frozen features, mean squared error over all elements."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Batch, Output


class PixelReconstruction(nn.Module):
    """Mean squared error between the predicted and the true image, both in [-1, 1] (Locatello et al. 2020).

    Where the decoder paints a smaller image, the true one is averaged down to it.
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        target = batch.images * 2 - 1
        prediction = output.decoded.prediction
        if prediction.shape != target.shape:
            target = F.interpolate(target, prediction.shape[-2:], mode="area")
        return F.mse_loss(prediction.float(), target)


class FeatureReconstruction(nn.Module):
    """Mean squared error to the encoder's own tokens (B N F), which carry no gradient (DINOSAUR)."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return F.mse_loss(output.decoded.prediction.float(), output.features.tokens.detach().float())

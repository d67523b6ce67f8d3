"""Reconstruction of frozen tokens and of where they go in the next frame (VideoSAUR, Zadaianchuk et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Batch, Output


class FeatureSimilarity(nn.Module):
    """Mean squared error to the tokens, plus cross-entropy to their similarities with the tokens of the next frame.

        L = MSE(y_F, x) + weight * mean over t < T - 1, i of CE(P_t,i, y_N)
        P_t,i = softmax over j of cos(x_t,i, x_t+1,j) / temperature

    The decoder predicts F + N channels per token: y_F its features, y_N logits over the N places of the next frame.
    Targets carry no gradient. Published: temperature 0.075, weight 0.1 (MOVi), similarities of the keys of a ViT's last
    block; here they are those of the encoder's own tokens, whatever it gives. For `ocl.video.VideoModel`.

    Raises:
        ValueError: a temperature that is not positive; a clip of one frame, or another number of channels.
    """

    def __init__(self, temperature: float = 0.075, weight: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature, self.weight = temperature, weight

    def forward(self, output: Output, batch: Batch) -> Tensor:
        tokens, prediction = output.features.tokens.detach().float(), output.decoded.prediction.float()
        if tokens.ndim != 4 or tokens.shape[1] < 2:
            raise ValueError(
                f"FeatureSimilarity needs tokens (B, T, N, F) of two frames or more, got {tuple(tokens.shape)}."
            )
        count, width = tokens.shape[2:]
        if prediction.shape[-1] != width + count:
            raise ValueError(
                f"the decoder must predict F + N = {width} + {count} channels, it gives {prediction.shape[-1]}."
            )
        target = similarity_targets(tokens, self.temperature)
        entropy = F.cross_entropy(prediction[:, :-1, :, width:].flatten(0, 2), target.flatten(0, 2))
        return F.mse_loss(prediction[..., :width], tokens) + self.weight * entropy


def similarity_targets(tokens: Tensor, temperature: float) -> Tensor:
    """Tokens (B T N F) -> (B T-1 N N): for each token, a distribution over the places of the next frame."""
    with torch.autocast(tokens.device.type, enabled=False):
        directions = F.normalize(tokens, dim=-1)
        return (directions[:, :-1] @ directions[:, 1:].mT / temperature).softmax(dim=-1)

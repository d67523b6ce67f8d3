"""The two losses of SLATE (Singh et al. 2022, arXiv 2110.11405), both summed over an image and averaged over images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ocl.feature_types import CodedFeatures
from ocl.shapes import Batch, Output


class AutoencoderError(nn.Module):
    """Squared error between the image, in [0, 1], and what the discrete autoencoder paints: sum over pixels / B.

    Raises:
        ValueError: an encoder without a vocabulary.
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        painted = _coded(output).painted.float()
        return F.mse_loss(painted, batch.images, reduction="sum") / len(painted)


class CodeCrossEntropy(nn.Module):
    """Cross-entropy of the entries of the vocabulary that stand for the image: sum over tokens of -log p / B, in nats.

    Raises:
        ValueError: an encoder without a vocabulary, or a decoder that does not give logits (B N V).
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        codes, logits = _coded(output).codes, output.decoded.prediction
        if logits.shape[:-1] != codes.shape:
            raise ValueError(
                f"CodeCrossEntropy needs logits ({', '.join(map(str, codes.shape))}, V), the decoder gives "
                f"{tuple(logits.shape)}; use ocl.decoders.codes.CodeDecoder."
            )
        total = F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), reduction="sum")
        return total / len(codes)


def _coded(output: Output) -> CodedFeatures:
    features = output.features
    if not isinstance(features, CodedFeatures):
        raise ValueError("this loss needs tokens of a vocabulary: ocl.encoders.discrete.DiscreteEncoder.")
    return features

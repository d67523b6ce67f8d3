"""SLATE: slots of an image's discrete codes, and images painted from slots (Singh et al. 2022, arXiv 2110.11405)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocl.decoders.codes import CodeDecoder
from ocl.encoders.discrete import DiscreteEncoder
from ocl.model import ObjectCentricModel
from ocl.shapes import Slots


class SLATE(ObjectCentricModel):
    """An object-centric model whose decoder names the entries of its encoder's vocabulary.

    Trained with `ocl.losses.codes.AutoencoderError` and `CodeCrossEntropy`, at the same weight; the autoencoder faster
    than the rest and without warm-up (`ocl.training.Rate`).

    Args:
        encoder, initial_slots, grouping, decoder, projection: see `ObjectCentricModel`.

    Raises:
        ValueError: an encoder and a decoder of other grids, widths or vocabularies.
    """

    encoder: DiscreteEncoder
    decoder: CodeDecoder

    def __init__(
        self,
        encoder: DiscreteEncoder,
        initial_slots: nn.Module,
        grouping: nn.Module,
        decoder: CodeDecoder,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__(encoder, initial_slots, grouping, decoder, projection)
        given = (encoder.grid, encoder.dim, encoder.autoencoder.vocabulary)
        expected = (decoder.grid, decoder.feature_dim, decoder.vocabulary)
        if given != expected:
            raise ValueError(
                f"the encoder has grid, token width and vocabulary {given}, the decoder {expected}; they must agree."
            )

    @torch.no_grad()
    def paint(self, slots: Slots) -> Tensor:
        """Images (B 3 H W) from slots alone, in [0, 1]: one code after the other, then the autoencoder's decoder."""
        return self.encoder.paint(self.decoder.generate(slots, self.encoder.embed)).clamp(0, 1)

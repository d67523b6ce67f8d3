"""An object-centric model is a sentence: encoder, projection, initial slots, grouping, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.shapes import Features, Output, Slots


class ObjectCentricModel(nn.Module):
    """Images to slots and back.

    Args:
        encoder: images (B 3 H W) float in [0, 1] -> `Features`.
        initial_slots: (batch size, K, noise) -> (B K D).
        grouping: (`Features`, initial slots) -> `Slots`.
        decoder: slot vectors (B K D) -> `Decoded`.
        projection: tokens (B N F) -> (B N D'), between encoder and grouping, for encoders that are frozen and whose
            raw tokens are the reconstruction target. None: the grouping reads the encoder's tokens.
    """

    def __init__(
        self,
        encoder: nn.Module,
        initial_slots: nn.Module,
        grouping: nn.Module,
        decoder: nn.Module,
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.initial_slots = initial_slots
        self.grouping = grouping
        self.decoder = decoder

    def group(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        iterations: int | None = None,
    ) -> Slots:
        """Features to slots; `num_slots`, `noise` (K D) and `iterations` override the initial slots and T."""
        if self.projection is not None:
            features = Features(self.projection(features.tokens), features.grid)
        initial = self.initial_slots(len(features.tokens), num_slots, noise)
        slots: Slots = self.grouping(features, initial, iterations)
        return slots

    def forward(
        self, images: Tensor, num_slots: int | None = None, noise: Tensor | None = None, iterations: int | None = None
    ) -> Output:
        """images (B 3 H W) float in [0, 1] -> `Output`."""
        features: Features = self.encoder(images)
        slots = self.group(features, num_slots, noise, iterations)
        return Output(features, slots, self.decoder(slots.vectors))


class TokenProjection(nn.Sequential):
    """LayerNorm and a two-layer MLP F -> F -> D on frozen tokens, as in DINOSAUR."""

    def __init__(self, token_dim: int, dim: int) -> None:
        super().__init__(nn.LayerNorm(token_dim), nn.Linear(token_dim, token_dim), nn.ReLU(), nn.Linear(token_dim, dim))

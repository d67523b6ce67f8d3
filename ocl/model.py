"""An object-centric model is a sentence: encoder, projection, initial slots, grouping, decoder."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.decoders.base import GroupedDecoder
from ocl.feature_types import grouping_tokens
from ocl.shapes import Decoded, Features, Grouped, Hints, Output


class ObjectCentricModel(nn.Module):
    """Images to slots and back.

    Args:
        encoder: images (B 3 H W) float in [0, 1] -> `Features`, or a kind of `ocl.feature_types`.
        initial_slots: (`Features`, K, noise, `Hints`) -> (B K D).
        grouping: (`Features`, initial slots, T, `Hints`) -> `Slots`.
        decoder: slot vectors (B K D), keep (B K) or None -> `Decoded`; or a `GroupedDecoder`, `Grouped` -> `Decoded`.
        projection: tokens (B N F) -> (B N D'), between encoder and grouping, for encoders that are frozen and whose
            raw tokens are the reconstruction target. None: the grouping reads the encoder's tokens.
        selection: `Slots` -> `Slots` with some of them dropped: `valid`, and "keep" (B K) in its notes for the decoder.
    """

    def __init__(
        self,
        encoder: nn.Module,
        initial_slots: nn.Module,
        grouping: nn.Module,
        decoder: nn.Module,
        projection: nn.Module | None = None,
        selection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.initial_slots = initial_slots
        self.grouping = grouping
        self.decoder = decoder
        self.selection = selection

    def group(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        iterations: int | None = None,
        hints: Hints | None = None,
        initial: Tensor | None = None,
    ) -> Grouped:
        """Features to slots; `num_slots`, `noise` (K D) and `iterations` override the initial slots and T.

        `initial` (B K D) takes the place of the initial slots: iterations start there.
        """
        read = grouping_tokens(features)
        tokens = Features(read if self.projection is None else self.projection(read), features.grid)
        if initial is None:
            initial = self.initial_slots(tokens, num_slots, noise, hints)
        slots = self.grouping(tokens, initial, iterations, hints)
        if self.selection is not None:
            slots = self.selection(slots)
        return Grouped(features, tokens, initial, slots)

    def follow(self, features: Features, previous: Tensor) -> Grouped:
        """The next frame of a clip: features (B N F), and the slots (B K D) of the frame before to start from."""
        return self.group(features, initial=previous)

    def decode(self, grouped: Grouped) -> Decoded:
        """Slots to what they predict."""
        slots = grouped.slots
        whole = isinstance(self.decoder, GroupedDecoder)
        decoded: Decoded = self.decoder(grouped) if whole else self.decoder(slots.vectors, slots.notes.get("keep"))
        return decoded

    def forward(
        self,
        images: Tensor,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        iterations: int | None = None,
        hints: Hints | None = None,
    ) -> Output:
        """images (B 3 H W) float in [0, 1] -> `Output`."""
        grouped = self.group(self.encoder(images), num_slots, noise, iterations, hints)
        decoded = self.decode(grouped)
        return Output(grouped.features, grouped.tokens, grouped.initial, grouped.slots, decoded)


class TokenProjection(nn.Sequential):
    """LayerNorm and a two-layer MLP F -> F -> D on frozen tokens, as in DINOSAUR."""

    def __init__(self, token_dim: int, dim: int) -> None:
        super().__init__(nn.LayerNorm(token_dim), nn.Linear(token_dim, token_dim), nn.ReLU(), nn.Linear(token_dim, dim))

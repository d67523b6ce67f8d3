"""Top-k decoding: every token is predicted by its k strongest slots alone (FT-DINOSAUR, Didolkar et al. 2025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.decoders.base import GroupedDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.shapes import Decoded, Grouped, softmax_over_slots


class TopKDecoder(GroupedDecoder):
    """An `MLPDecoder` that evaluates k of the K slots at each token, in training and in test.

    The strongest slots of a token are those with the largest share in the grouping's attention there, as in the
    published inference code; the choice carries no gradient. The others have mask 0. The cost falls by K / k; at k >= K
    it is the full decoder. The weights are those of `decoder`, and full decoding with them is `decoder` itself.

    Args:
        decoder: what predicts a token from a slot.
        k: published 3.

    Raises:
        ValueError: k below 1; in the forward pass, a grouping without attention or one of another grid.
    """

    def __init__(self, decoder: MLPDecoder, k: int = 3) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        self.decoder = decoder
        self.k = k

    def forward(self, grouped: Grouped) -> Decoded:
        """slots (B K D) with masks (B K h w) -> prediction (B N F), masks (B K h w)."""
        decoder, slots = self.decoder, grouped.slots
        keep = slots.notes.get("keep")
        if slots.masks is None or tuple(slots.masks.shape[-2:]) != decoder.grid:
            found = "no attention" if slots.masks is None else f"attention {tuple(slots.masks.shape)}"
            raise ValueError(f"top-k decoding reads the grouping's attention (B, K, *{decoder.grid}), got {found}.")
        vectors, attention = slots.vectors, slots.masks.detach().flatten(2)  # (B K N)
        count = vectors.shape[1]
        if self.k >= count:
            full: Decoded = decoder(vectors, keep)
            return full
        if keep is not None:
            attention = attention.masked_fill(keep.detach()[..., None] <= 0, -1)
        chosen = attention.topk(self.k, dim=1, sorted=False).indices  # (B k N)
        hidden = F.relu_(self._first(vectors, chosen))
        for layer in decoder.hidden:
            hidden = F.relu_(layer(hidden))
        shares = self._shares(decoder.alpha(hidden).squeeze(-1), chosen, keep)  # (B k N)
        mixed = torch.einsum("bkn,bknh->bnh", shares.to(hidden.dtype), hidden)
        masks = shares.new_zeros(attention.shape).scatter(1, chosen, shares)
        return Decoded(decoder.features(mixed), masks.unflatten(-1, decoder.grid))

    def _first(self, slots: Tensor, chosen: Tensor) -> Tensor:
        """Slot terms of the chosen slots plus position terms: slots (B K D), chosen (B k N) -> (B k N H).

        A product with 0 and 1 is exact, adds the positions on its way, and its gradient is a product again, not a
        scattered sum.
        """
        decoder = self.decoder
        terms: Tensor = decoder.first(slots)  # (B K H)
        from_position = F.linear(decoder.position, decoder.first.weight).to(terms.dtype)  # (N H)
        picks = F.one_hot(chosen.flatten(1), slots.shape[1]).to(terms.dtype)  # (B kN K)
        positions = from_position.repeat(self.k, 1).expand(len(slots), -1, -1)
        first: Tensor = torch.baddbmm(positions, picks, terms).unflatten(1, (self.k, -1))
        return first

    def _shares(self, logits: Tensor, chosen: Tensor, keep: Tensor | None) -> Tensor:
        """Competition among the chosen slots of each token, (B k N) -> (B k N)."""
        if keep is None:
            return softmax_over_slots(logits)
        weights = keep[..., None].expand(-1, -1, chosen.shape[-1]).gather(1, chosen)
        flat = softmax_over_slots(logits.mT.flatten(0, 1), weights.mT.flatten(0, 1))  # (BN k)
        shares: Tensor = flat.unflatten(0, (len(logits), -1)).mT
        return shares

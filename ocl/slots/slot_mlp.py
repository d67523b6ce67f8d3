"""Slot MLP: slots without competition, the baseline that Slot Attention was published against."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.shapes import Features, Hints, Slots


class SlotMLP(nn.Module):
    """All tokens at once through one MLP to all slots: S = S0 + MLP(LayerNorm(X) flattened) (B K D).

    Slots have a fixed order and number, and no attention says where they look, so `masks` is None; decoder masks exist
    as for any grouping. After the Slot MLP of Locatello et al. 2020 (arXiv 2006.15055), whose FG-ARI on CLEVR6 is 60.4
    against 98.8; the LayerNorm, the widths and the sum with the starts are ours.

    Args:
        dim: slot width D.
        num_slots: K.
        num_tokens: N.
        token_dim: token width F; D where None.
        hidden_dim: of the MLP.
    """

    def __init__(
        self, dim: int, num_slots: int, num_tokens: int, token_dim: int | None = None, hidden_dim: int = 128
    ) -> None:
        super().__init__()
        token_dim = dim if token_dim is None else token_dim
        self.tokens, self.slots = (num_tokens, token_dim), (num_slots, dim)
        self.norm = nn.LayerNorm(token_dim, eps=1e-3)
        self.mlp = nn.Sequential(
            nn.Linear(num_tokens * token_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_slots * dim)
        )
        glorot_(self)

    def forward(
        self, features: Features, slots: Tensor, iterations: int | None = None, hints: Hints | None = None
    ) -> Slots:
        """tokens (B N F), initial slots (B K D) -> vectors (B K D); there is nothing to iterate or to hint at."""
        if tuple(features.tokens.shape[1:]) != self.tokens:
            raise ValueError(f"tokens must be (B, {self.tokens}), got {tuple(features.tokens.shape)}.")
        if tuple(slots.shape[1:]) != self.slots:
            raise ValueError(f"slots must be (B, {self.slots}), got {tuple(slots.shape)}; an MLP has a fixed number.")
        update: Tensor = self.mlp(self.norm(features.tokens).flatten(1))
        return Slots.of(slots + update.unflatten(1, self.slots))

"""Where slots will be in the next frame: a transformer over the slots of this one (SAVi, Kipf et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn


class SlotPredictor(nn.Module):
    """One transformer block over the K slots of a frame, the same for all slots.

        S = LayerNorm(S + SelfAttention(S))
        S = LayerNorm(S + MLP(S))

    Slots keep their order: slot k of the next frame starts at prediction k. One block is published; heads, widths and
    the place of the norms are choices made here. The last norm keeps slots from growing over long clips.

    Args:
        dim: slot width D.
        heads: of the attention; must divide D.
        hidden_dim: of the MLP; 2 D where None.
    """

    def __init__(self, dim: int, heads: int = 4, hidden_dim: int | None = None) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide the slot width {dim}, got {heads}.")
        hidden_dim = 2 * dim if hidden_dim is None else hidden_dim
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, slots: Tensor) -> Tensor:
        """slots of a frame (B K D) -> starts of the next (B K D)."""
        slots = self.norm_attention(slots + self.attention(slots, slots, slots, need_weights=False)[0])
        predicted: Tensor = self.norm_mlp(slots + self.mlp(slots))
        return predicted

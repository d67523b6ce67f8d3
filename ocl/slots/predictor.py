"""Where slots will be in the next frame: a transformer over the slots of this one (SAVi, Kipf et al. 2022)."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.hooks import NeutralAtStart


class SlotPredictor(NeutralAtStart, nn.Module):
    """One transformer block over the K slots of a frame, the same for all slots.

        S = S + SelfAttention(LayerNorm(S))
        S = S + MLP(LayerNorm(S))

    Slots keep their order: slot k of the next frame starts at prediction k. What is added begins at zero, so training
    begins with slots that stay as they are, and a model of images can go on as a model of clips. One block is
    published; heads, widths, the place of the norms and the zeros are choices made here.

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
        self.norm_attention, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        last = nn.Linear(hidden_dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), last)
        for layer in (self.attention.out_proj, last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, slots: Tensor) -> Tensor:
        """slots of a frame (B K D) -> starts of the next (B K D)."""
        read = self.norm_attention(slots)
        slots = slots + self.attention(read, read, read, need_weights=False)[0]
        predicted: Tensor = slots + self.mlp(self.norm_mlp(slots))
        return predicted

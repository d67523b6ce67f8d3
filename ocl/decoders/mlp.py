"""MLP patch decoder: every slot predicts every token's features and a mask logit (DINOSAUR, arXiv 2209.14860)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Decoded, softmax_over_slots


class MLPDecoder(nn.Module):
    """An MLP on (slot + learned token position), the same for every slot and token.

        (y_kn, alpha_kn) = MLP(s_k + p_n);  m = softmax over k of alpha;  prediction_n = sum over k of m_kn y_kn

    Two exact rewritings keep the published parameters: the first layer splits into K slot terms and N position terms
    that are added, W (s_k + p_n) = W s_k + W p_n; and since the output layer is linear and masks sum to one, hidden
    states are mixed before it, so that it runs once per token instead of K times (only the mask logit is per slot).

    Args:
        dim: slot width D.
        feature_dim: width F of the predicted features.
        grid: (h, w) with h * w = N tokens.
        hidden_dim, hidden_layers: published 2048 x 3 (COCO) or 1024 x 3 (MOVi).
    """

    def __init__(
        self, dim: int, feature_dim: int, grid: tuple[int, int], hidden_dim: int = 1024, hidden_layers: int = 3
    ) -> None:
        super().__init__()
        if hidden_layers < 1:
            raise ValueError(f"hidden_layers must be at least 1, got {hidden_layers}.")
        self.dim = dim
        self.grid = (grid[0], grid[1])
        self.position = nn.Parameter(torch.randn(grid[0] * grid[1], dim) * 0.02)
        self.first = nn.Linear(dim, hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(hidden_layers - 1))
        self.features = nn.Linear(hidden_dim, feature_dim)
        self.alpha = nn.Linear(hidden_dim, 1)

    def forward(self, slots: Tensor, keep: Tensor | None = None) -> Decoded:
        """slots (B K D) -> prediction (B N F), masks (B K h w)."""
        if slots.ndim != 3 or slots.shape[-1] != self.dim:
            raise ValueError(f"slots must be (B, K, {self.dim}), got {tuple(slots.shape)}.")
        from_position = F.linear(self.position, self.first.weight)  # (N H)
        hidden = F.relu_(self.first(slots).unsqueeze(2) + from_position)  # (B K N H)
        for layer in self.hidden:
            hidden = F.relu_(layer(hidden))
        masks = softmax_over_slots(self.alpha(hidden).squeeze(-1), keep)  # (B K N)
        mixed = torch.einsum("bkn,bknh->bnh", masks.to(hidden.dtype), hidden)
        return Decoded(self.features(mixed), masks.unflatten(-1, self.grid))

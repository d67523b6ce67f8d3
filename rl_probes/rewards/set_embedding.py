"""One vector for a set of slots, whatever their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_probes.maximum import set_maximum


class SetEmbedding(nn.Module):
    """(max_k h_k, mean_k h_k) with h_k = phi(s_k, max_j psi(s_j)) over valid slots (Zaheer et al., 2017, section 3)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.psi = nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)
        )
        self.of_slot = nn.Linear(dim, width)
        self.of_context = nn.Linear(width, width, bias=False)
        self.phi = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True))

    def forward(self, slots: Tensor, valid: Tensor) -> Tensor:
        """slots (B K D), zero where not valid (B K) -> (B 2*width), zero for a set without a valid slot."""
        # psi and phi end in a ReLU and are never negative: zero is neutral for the maximum.
        present = valid[..., None].to(slots.dtype)
        context = set_maximum(self.psi(slots) * present)  # (B width)
        each = self.phi(self.of_slot(slots) + self.of_context(context)[:, None]) * present  # (B K width)
        mean = each.sum(1) / present.sum(1).clamp(min=1)
        return torch.cat([set_maximum(each), mean], dim=1)


class SetTransformer(nn.Module):
    """A learned class token beside the slots, post-norm transformer layers, the class token's output: the pooling of
    Yoon et al. (ICML 2023). Without a code of position, so blind to order; without dropout, so the same every time."""

    def __init__(self, dim: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, slots: Tensor, valid: Tensor) -> Tensor:
        """slots (B K D), zero where not valid (B K) -> (B width)."""
        token = self.token.expand(len(slots), 1, -1)
        tokens = torch.cat([token, self.project(slots)], 1)  # (B K+1 width)
        ignored = torch.cat([valid.new_zeros(len(valid), 1), ~valid], 1)
        encoded: Tensor = self.transformer(tokens, src_key_padding_mask=ignored)
        return encoded[:, 0]


def marked(slots: Tensor, mark: float) -> Tensor:
    """(B K D) -> (B K D+1): which of several sets these slots belong to, once they are one."""
    return torch.cat([slots, slots.new_full((*slots.shape[:2], 1), mark)], 2)

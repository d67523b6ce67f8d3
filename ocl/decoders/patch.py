"""Patch decoder: every slot paints every patch of the image with one small MLP, masks compete per pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.position import PositionEmbedding
from ocl.shapes import Decoded, softmax_over_slots


class PatchDecoder(nn.Module):
    """A spatial broadcast decoder without convolutions: an MLP on (slot + position of the patch) paints p x p pixels.

        (R_k, alpha_k) = MLP(s_k + position_n);  m = softmax over k of alpha;  prediction = sum over k of m_k R_k

    Everything is a matrix product, so on a CPU it costs a fraction of transposed convolutions of the same accuracy. The
    first layer splits into K slot terms and N position terms that are added (exact; see `MLPDecoder`).

    Args:
        dim: slot width D.
        grid: (h, w) patches.
        patch: pixels along the side of a patch; the image is (h p, w p).
        hidden_dim, hidden_layers: of the MLP.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int], patch: int, hidden_dim: int = 64, hidden_layers: int = 2
    ) -> None:
        super().__init__()
        if patch < 1 or hidden_layers < 1:
            raise ValueError(f"patch and hidden_layers must be at least 1, got {patch} and {hidden_layers}.")
        self.dim = dim
        self.grid = (grid[0], grid[1])
        self.patch = patch
        self.position = PositionEmbedding(dim, self.grid)
        self.first = nn.Linear(dim, hidden_dim)
        self.hidden = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in range(hidden_layers - 1))
        self.output = nn.Linear(hidden_dim, 4 * patch * patch)
        glorot_(self)

    def forward(self, slots: Tensor, keep: Tensor | None = None) -> Decoded:
        """slots (B K D) -> prediction (B 3 H W) in [-1, 1], masks (B K H W)."""
        if slots.ndim != 3 or slots.shape[-1] != self.dim:
            raise ValueError(f"slots must be (B, K, {self.dim}), got {tuple(slots.shape)}.")
        from_position = F.linear(self.position().flatten(1).mT, self.first.weight)  # (N hidden)
        hidden = F.relu_(self.first(slots).unsqueeze(2) + from_position)  # (B K N hidden)
        for layer in self.hidden:
            hidden = F.relu_(layer(hidden))
        painted = self.output(hidden)  # (B K N 4pp)
        # Mix patches first and move pixels to their places after: K times fewer pixels to move.
        painted = rearrange(painted, "b k n (c q) -> b k n c q", c=4)
        masks = softmax_over_slots(painted[..., 3, :], keep)  # (B K N pp)
        mixed = torch.einsum("bknq,bkncq->bncq", masks.to(painted.dtype), painted[..., :3, :])
        places = {"h": self.grid[0], "p": self.patch}
        prediction = rearrange(mixed, "b (h w) c (p q) -> b c (h p) (w q)", **places)
        return Decoded(prediction, rearrange(masks, "b k (h w) (p q) -> b k (h p) (w q)", **places))

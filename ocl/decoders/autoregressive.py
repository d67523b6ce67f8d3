"""Autoregressive decoder: a transformer predicts frozen tokens one after the other, from the slots (DINOSAUR, SPOT)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.decoders.causal import Memory, attention_to_slots
from ocl.decoders.causal_decoder import CausalDecoder
from ocl.decoders.orders import inverse_orders, patch_orders
from ocl.shapes import Decoded, Grouped, Slots


class Reading(Decoded):
    """A prediction whose masks are computed when they are first read.

    They are the last block's attention from each token to the slots, averaged over heads, then over orders. Training
    never reads them, and attention runs fused.
    """

    def __init__(self, prediction: Tensor, passes: list[tuple[Tensor, Memory, Tensor]], grid: tuple[int, int]) -> None:
        self.prediction = prediction
        self._passes, self._grid = passes, grid

    def __getattr__(self, name: str) -> Any:  # called for what is not there yet
        if name != "masks":
            raise AttributeError(name)
        shares = [attention_to_slots(query, memory)[..., inverse] for query, memory, inverse in self._passes]
        self.masks = torch.stack(shares).mean(dim=0).unflatten(-1, self._grid)
        return self.masks


class AutoregressiveDecoder(CausalDecoder):
    """A causal transformer over the target tokens that reads the slots in every block, teacher-forced.

        y_i = LayerNorm(blocks(project([BOS, x_1, ..., x_i-1]), project(slots)))   for the i-th token of the order

    The targets are the encoder's tokens (B N F), which carry no gradient here and hold their own positions: there is no
    position embedding. With `permuted`, SPOT's: in training every batch is read in one of nine orders drawn at random,
    each with a BOS of its own. Without, DINOSAUR's raster order. The blocks are those of SLATE and SPOT, whose code
    DINOSAUR's differs from in details (published: 4 blocks; 8 heads on COCO, 6 in SPOT, 4 elsewhere).

    Args:
        dim: slot width D.
        feature_dim: token width F, also that of the transformer.
        grid: (h, w) with h * w = N tokens.
        blocks: how many.
        heads: of both attentions of a block; must divide F.
        permuted: train on nine orders.
        ensemble: in eval mode, average prediction and masks over all orders (SPOT's best figures); False: raster.

    Raises:
        ValueError: heads that do not divide F; an ensemble of one order; in the forward pass, tokens or slots of other
            widths, and slots that are weighed, which attention cannot hand a gradient (AdaSlot: use `MLPDecoder`).
    """

    orders: Tensor
    inverses: Tensor

    def __init__(
        self,
        dim: int,
        feature_dim: int,
        grid: tuple[int, int],
        blocks: int = 4,
        heads: int = 6,
        permuted: bool = False,
        ensemble: bool = False,
    ) -> None:
        super().__init__(dim, feature_dim, grid, blocks, heads)
        if ensemble and not permuted:
            raise ValueError("an ensemble averages over orders that were trained: set permuted too.")
        self.ensemble = ensemble
        orders = patch_orders(self.grid)[: None if permuted else 1]
        self.register_buffer("orders", orders, persistent=False)
        self.register_buffer("inverses", inverse_orders(orders), persistent=False)
        self.start = nn.Parameter(torch.randn(len(orders), feature_dim) * 0.02)
        self.project_tokens = self._projection(feature_dim)
        self.project_slots = self._projection(dim)

    def forward(self, grouped: Grouped) -> Decoded:
        """slots (B K D) and tokens (B N F) -> prediction (B N F), masks (B K h w)."""
        tokens = self._checked(grouped.features.tokens).detach()
        memories = self._memories(grouped.slots)
        # Orders are picked by tensors of one entry: a number, or a tensor without axes, would make the host wait.
        device = self.orders.device
        if self.training:
            chosen = torch.randint(len(self.orders), (1,), device=device)
        else:
            chosen = torch.arange(len(self.orders) if self.ensemble else 1, device=device)
        predictions, passes = [], []
        for order in chosen.split(1):
            (places,), (inverse,) = self.orders[order], self.inverses[order]  # (N)
            read, query = self._read(tokens[:, places], self.start[order], memories)
            predictions.append(read[:, inverse])
            passes.append((query, memories[-1], inverse))
        return Reading(torch.stack(predictions).mean(dim=0), passes, self.grid)

    @torch.no_grad()
    def generate(self, slots: Slots, order: int = 0) -> Tensor:
        """Tokens (B N F), in raster order, from slots alone: each is predicted from those predicted before it.

        Keys and values of earlier tokens are kept, so that every token passes the blocks once.
        """
        start = self.start[order].expand(len(slots.vectors), 1, -1)
        found = list(self._unrolled(slots, start, lambda token, place: token))
        return torch.cat(found, dim=1)[:, self.inverses[order]]

    def _projection(self, width: int) -> nn.Sequential:
        linear = nn.Linear(width, self.feature_dim, bias=False)
        nn.init.xavier_uniform_(linear.weight)
        return nn.Sequential(linear, nn.LayerNorm(self.feature_dim))

"""First slots that have looked at the image: queries through one transformer-decoder layer (SmoothSA)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocl.hooks import AfterStep
from ocl.shapes import Features, Hints, Slots
from ocl.slots.initial import InitialSlots


class PreheatedSlots(InitialSlots, AfterStep):
    """Other starts that attend to the tokens once, so that the iterations begin near where they end (SmoothSA, 2026).

    With Q the other starts (B K D) and X^ = LayerNorm(X):

        Q = Q + CrossAttention(Q, X^)
        Q = Q + SelfAttention(LayerNorm(Q))
        Q = LayerNorm(Q + MLP(LayerNorm(Q)))

    `ocl.losses.preheat.PreheatLoss` (published weight 100) pulls the result to the final slots. Equal starts lead to
    equal slots, which satisfies that loss for good, so in training iterations must begin beside the start and not at
    it: put the grouping into a `DisturbedStart`, as the published code does. In short runs starts grew alike even so.

    In the first `detached_share` of training nothing that this layer causes reaches the encoder. The published 10 %
    belong to frozen encoders, of which a projection is trained. With an encoder that learns from pixels the loss at its
    published weight has many times the gradient of the reconstruction there: keep it away by a share of 1.

    The layer with its order and inner norms, 4 heads, the width of 4 D, GELU, the loss, its weight and the share are
    those of the published code, whose queries are `RandomSlots`. The norm of the tokens and the last one are ours: the
    start is pulled to slots that were reached from it, so an unbounded one can run away with them.

    Args:
        queries: the starts to warm, random or learned.
        total_steps: optimiser steps of the training.
        token_dim: token width F; D where None.
        heads: of both attentions; must divide D.
        hidden_dim: of the MLP; 4 D where None.
        detached_share: of `total_steps`.
    """

    step: Tensor

    def __init__(
        self,
        queries: InitialSlots,
        total_steps: int,
        token_dim: int | None = None,
        heads: int = 4,
        hidden_dim: int | None = None,
        detached_share: float = 0.1,
    ) -> None:
        super().__init__(queries.num_slots, queries.dim)
        if total_steps < 1 or not 0 <= detached_share <= 1:
            raise ValueError(
                f"total_steps must be at least 1 and detached_share in [0, 1], got {total_steps} and {detached_share}."
            )
        if heads < 1 or self.dim % heads:
            raise ValueError(f"heads must divide the slot width {self.dim}, got {heads}.")
        token_dim = self.dim if token_dim is None else token_dim
        hidden_dim = 4 * self.dim if hidden_dim is None else hidden_dim
        self.queries = queries
        self.token_dim = token_dim
        self.detached_steps = round(detached_share * total_steps)
        self.norm_tokens = nn.LayerNorm(token_dim)
        self.norm_self, self.norm_mlp, self.norm = (nn.LayerNorm(self.dim) for _ in range(3))
        self.self_attention = nn.MultiheadAttention(self.dim, heads, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(self.dim, heads, kdim=token_dim, vdim=token_dim, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(self.dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, self.dim))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved: a resumed run goes on from here

    def count(self, num_slots: int | None) -> int:
        return self.queries.count(num_slots)

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D); `num_slots`, `noise` and `hints` are for the starts inside."""
        if features.tokens.shape[-1] != self.token_dim:
            raise ValueError(f"tokens must be (B, N, {self.token_dim}), got {tuple(features.tokens.shape)}.")
        queries: Tensor = self.queries(features, num_slots, noise, hints)
        # A choice between tensors, not a branch: reading the step would make the host wait for the device.
        detached = features.tokens.detach()
        tokens = self.norm_tokens(torch.where(self.step < self.detached_steps, detached, features.tokens))
        queries = queries + self.cross_attention(queries, tokens, tokens, need_weights=False)[0]
        read = self.norm_self(queries)
        queries = queries + self.self_attention(read, read, read, need_weights=False)[0]
        warmed: Tensor = self.norm(queries + self.mlp(self.norm_mlp(queries)))
        return warmed

    def after_step(self) -> None:
        self.step += 1


class DisturbedStart(nn.Module):
    """A grouping whose iterations begin beside the given starts in training, and at them in evaluation (SmoothSA):

        S0 = sg(Q) + exp(log_sigma) eps,   eps ~ N(0, I)

    sigma (D) is learned and begins at 1. The starts themselves get no gradient from what the slots are used for: their
    own loss alone trains them. Published with `SlotAttention(gradient="bilevel")`, whose gradient reaches sigma.

    Args:
        grouping: (`Features`, initial slots, T, `Hints`, valid) -> `Slots`.
        dim: slot width D.
    """

    def __init__(self, grouping: nn.Module, dim: int) -> None:
        super().__init__()
        self.grouping = grouping
        self.log_sigma = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        features: Features,
        slots: Tensor,
        iterations: int | None = None,
        hints: Hints | None = None,
        valid: Tensor | None = None,
    ) -> Slots:
        """tokens (B N F), starts (B K D) -> the grouping's `Slots`."""
        if self.training:
            slots = slots.detach() + self.log_sigma.exp() * torch.randn_like(slots)
        grouped: Slots = self.grouping(features, slots, iterations, hints, valid)
        return grouped

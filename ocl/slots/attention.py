"""Slot Attention (Locatello et al. 2020, arXiv 2006.15055), computed in the cheaper of two exactly equal orders."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.shapes import Features, Hints, Slots
from ocl.slots.competition import Competition, Rules
from ocl.slots.point_guidance import PointGuidance, PointTrace
from ocl.slots.refining import AttentionRefiningKernel


class SlotAttention(nn.Module):
    """Slots compete for tokens, then each is updated by the weighted mean of what it won.

    With X^ = LayerNorm(X) (B N F) computed once and S0 (B K D) given, for t = 1..T:

        Q = LayerNorm(S) Wq * D^-1/2                        (B K D)
        A = softmax over the K axis of Q (X^ Wk)^T          (B K N)
        W = (A + epsilon) / sum over N of (A + epsilon)     weighted mean over tokens
        U = W (X^ Wv)                                       (B K D)
        S = GRU(input U, state S)                           the state is the slot itself, not its LayerNorm
        S = S + MLP(LayerNorm(S))

    Since K is far below N, keys and values are never formed: Q (X^ Wk)^T = (Q Wk^T) X^^T and
    W (X^ Wv) = (W X^) Wv, which needs no (N, F, D) product. Softmax and renormalisation run in float32 whatever
    the autocast type, so that a slot that wins nothing averages all tokens instead of dividing zero by zero.

    Initialisation follows the official code: Glorot uniform weights without bias for Wq, Wk, Wv; Glorot input and
    orthogonal recurrent GRU weights; zero biases; LayerNorm epsilon 1e-3.

    Args:
        dim: slot width D.
        token_dim: token width F; D where None.
        iterations: T.
        hidden_dim: width of the residual MLP.
        epsilon: keeps slots that win nothing from dividing zero by zero.
        gradient: through which iterations it flows. "full": all T. "implicit": the last alone; the others run without
            a graph, so memory does not grow with T (Chang et al. 2022, arXiv 2207.00787: the first-order truncation of
            the gradient of the fixed point); the initial slots get none, so several processes need Lightning's
            strategy ddp_find_unused_parameters_true. "bilevel": as implicit, and the initial slots receive the
            gradient of the last iteration's start, straight through (Jia et al. 2023, arXiv 2210.08990). Same slots
            in all three.
        epsilon_in: "numerator" as above, the official code; "denominator", W = A / (sum over N of A + epsilon), as in
            later ones: a slot that wins nothing gets no update instead of the mean.
        heads: H; Q, keys and values are cut into H runs of D / H, each with its own A and with (D / H)^-1/2.
        compete_across_heads: False: in every head its own softmax over the K slots. True: one softmax over all K H
            pairs of slot and head, so heads compete too, as in SLATE (Singh et al. 2022, arXiv 2110.11405).
        temperature: divides the logits.
        kernel: smooths the logits over the grid (SLASH), the same for all slots and heads.
        points: between GRU and MLP, where each slot says where it is (SLASH). With a truncated gradient, the points of
            the last iteration alone carry one.
    """

    def __init__(
        self,
        dim: int,
        token_dim: int | None = None,
        iterations: int = 3,
        hidden_dim: int = 128,
        epsilon: float = 1e-8,
        gradient: Literal["full", "implicit", "bilevel"] = "full",
        epsilon_in: Literal["numerator", "denominator"] = "numerator",
        heads: int = 1,
        compete_across_heads: bool = False,
        temperature: float = 1.0,
        kernel: AttentionRefiningKernel | None = None,
        points: PointGuidance | None = None,
    ) -> None:
        super().__init__()
        if gradient not in ("full", "implicit", "bilevel"):
            raise ValueError(f"gradient must be full, implicit or bilevel, got {gradient!r}.")
        if epsilon_in not in ("numerator", "denominator"):
            raise ValueError(f"epsilon_in must be numerator or denominator, got {epsilon_in!r}.")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}.")
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(f"dim must be a positive multiple of heads, got {dim} and {heads}.")
        if epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {epsilon}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        token_dim = dim if token_dim is None else token_dim
        self.dim, self.token_dim, self.iterations, self.epsilon = dim, token_dim, iterations, epsilon
        self.gradient, self.epsilon_in, self.temperature = gradient, epsilon_in, temperature
        self.heads, self.compete_across_heads = heads, compete_across_heads
        self.norm_tokens = nn.LayerNorm(token_dim, eps=1e-3)
        self.norm_slots = nn.LayerNorm(dim, eps=1e-3)
        self.norm_mlp = nn.LayerNorm(dim, eps=1e-3)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(token_dim, dim, bias=False)
        self.value = nn.Linear(token_dim, dim, bias=False)
        self.gru = nn.GRUCell(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))
        self._initialise()
        self.kernel = kernel
        self.points = points

    def _initialise(self) -> None:
        glorot_(self)
        nn.init.xavier_uniform_(self.gru.weight_ih)
        nn.init.orthogonal_(self.gru.weight_hh)
        nn.init.zeros_(self.gru.bias_ih)
        nn.init.zeros_(self.gru.bias_hh)

    def forward(
        self,
        features: Features,
        slots: Tensor,
        iterations: int | None = None,
        hints: Hints | None = None,
        valid: Tensor | None = None,
    ) -> Slots:
        """tokens (B N F), initial slots (B K D) -> vectors (B K D), masks (B K h w): the last A, summed over heads and
        made to sum to one over K.

        `hints` are for `points`. Slots that are not `valid` (B K) win nothing and take nothing from the others; at
        least one of an image must be valid.
        """
        self._check(features, slots, valid)
        count = self._count(iterations)
        tokens = self.norm_tokens(features.tokens)
        keys = None if self.kernel is None else self.kernel(tokens, features.grid)
        trace = PointTrace(hints, valid)
        if self.gradient != "full" and count > 1:
            with torch.no_grad():
                settled, _ = self._iterate(tokens, keys, slots, count - 1, trace)
            slots = self._last_start(settled, slots)
            count = 1
        slots, attention = self._iterate(tokens, keys, slots, count, trace)
        if valid is None:
            valid = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
        return Slots(slots, attention.unflatten(-1, features.grid), valid, trace.notes())

    def _count(self, iterations: int | None) -> int:
        """T of a call: `iterations`, or the module's own for None."""
        count = self.iterations if iterations is None else iterations
        if count < 1:
            raise ValueError(f"iterations must be at least 1, got {count}.")
        return count

    def _last_start(self, settled: Tensor, start: Tensor) -> Tensor:
        """Where the one iteration with a graph starts: `settled`, and "bilevel" hands its gradient to `start`."""
        return settled + (start - start.detach()) if self.gradient == "bilevel" else settled

    def _iterate(
        self, tokens: Tensor, keys: Tensor | None, slots: Tensor, count: int, trace: PointTrace
    ) -> tuple[Tensor, Tensor]:
        """`count` iterations on normalised tokens: slots (B K D) and the last A of all heads together (B K N)."""
        competitions = 1 if self.compete_across_heads else self.heads
        rules = Rules(self.epsilon, self.epsilon_in == "denominator", competitions)
        rows = None if trace.valid is None else trace.valid.repeat(1, self.heads)
        competition = Competition(tokens, rules, keys, rows)
        for _ in range(count):
            attention, pooled = competition(self._fold_keys(self.norm_slots(slots)))  # (B HK N), (B HK F)
            slots = self._gru(self._fold_values(pooled), slots)
            if self.points is not None:
                slots = self.points(slots, trace)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots, attention.unflatten(1, (self.heads, -1)).sum(dim=1) / competitions

    def _fold_keys(self, slots: Tensor) -> Tensor:
        """slots (B K D) -> Q Wk^T of every head (B HK F)."""
        query: Tensor = self.query(slots) * ((self.dim // self.heads) ** -0.5 / self.temperature)
        weight: Tensor = self.key.weight
        if self.heads == 1:
            return query @ weight
        query, weight = query.unflatten(-1, (self.heads, -1)), weight.unflatten(0, (self.heads, -1))
        return torch.einsum("bkhd,hdf->bhkf", query, weight).flatten(1, 2)

    def _fold_values(self, pooled: Tensor) -> Tensor:
        """pooled tokens of every head (B HK F) -> updates (B K D)."""
        weight: Tensor = self.value.weight
        if self.heads == 1:
            return pooled @ weight.mT
        weight = weight.unflatten(0, (self.heads, -1))
        return torch.einsum("bhkf,hdf->bkhd", pooled.unflatten(1, (self.heads, -1)), weight).flatten(2)

    def _gru(self, update: Tensor, slots: Tensor) -> Tensor:
        """GRUCell written as matrix products over (B K D), so that a compiler fuses the gates without graph breaks."""
        cell = self.gru
        reset_in, keep_in, new_in = F.linear(update, cell.weight_ih, cell.bias_ih).chunk(3, dim=-1)
        reset_state, keep_state, new_state = F.linear(slots, cell.weight_hh, cell.bias_hh).chunk(3, dim=-1)
        reset = torch.sigmoid(reset_in + reset_state)
        keep = torch.sigmoid(keep_in + keep_state)
        new = torch.tanh(new_in + reset * new_state)
        return torch.lerp(new.to(slots.dtype), slots, keep.to(slots.dtype))

    def _check(self, features: Features, slots: Tensor, valid: Tensor | None) -> None:
        tokens, (height, width) = features.tokens, features.grid
        if tokens.ndim != 3 or tokens.shape[-1] != self.token_dim or tokens.shape[1] != height * width:
            raise ValueError(
                f"tokens must be (B, {height} * {width}, {self.token_dim}) for this grid and module, "
                f"got {tuple(tokens.shape)}."
            )
        wanted = (tokens.shape[0], self.dim)
        if slots.ndim != 3 or (slots.shape[0], slots.shape[-1]) != wanted or slots.shape[1] < 1:
            raise ValueError(f"slots must be ({wanted[0]}, K, {wanted[1]}) with K >= 1, got {tuple(slots.shape)}.")
        if slots.shape[1] > tokens.shape[1]:
            raise ValueError(
                f"{slots.shape[1]} slots cannot share {tokens.shape[1]} tokens; use fewer slots or a finer grid."
            )
        if valid is not None and (valid.shape != slots.shape[:2] or valid.dtype != torch.bool):
            raise ValueError(f"valid must be bool {tuple(slots.shape[:2])}, got {valid.dtype} {tuple(valid.shape)}.")

"""Invariant Slot Attention (Biza et al. 2023, arXiv 2302.04973): each slot sees the tokens from where it is."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ocl.shapes import Features, Hints, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.competition import Competition, Rules

PLASTIC = 1.324717957244746
"""The real root of r^3 = r + 1, for two dimensions what the golden ratio is for one."""


class UniformPlaces(nn.Module):
    """Slots begin anywhere: in training uniformly at random over the image; in eval mode, so that slots are a function
    of the image, at the first K of a fixed sequence that covers it evenly, p_k = (1/2 + k (1/r, 1/r^2)) mod 1 with r
    the plastic number. Any K.
    """

    def forward(self, slots: Tensor) -> Tensor:
        """slots (B K D), of which only the number counts -> (B K 2) as (x, y) in [0, 1]."""
        batch, count, _ = slots.shape
        dtype = torch.promote_types(slots.dtype, torch.float32)
        if self.training:
            return torch.rand(batch, count, 2, device=slots.device, dtype=dtype)
        index = torch.arange(1, count + 1, device=slots.device, dtype=dtype)
        places = torch.stack([index / PLASTIC, index / PLASTIC**2], dim=-1)
        return ((places + 0.5) % 1).expand(batch, count, 2)


class LearnedPlaces(nn.Module):
    """Slot k begins at a learned place, at first anywhere in the image: for learned slots, whose K is fixed as well."""

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(num_slots, 2))

    def forward(self, slots: Tensor) -> Tensor:
        """slots (B K D) -> (B K 2) as (x, y)."""
        batch, count, _ = slots.shape
        if count != len(self.places):
            raise ValueError(f"learned places are fixed at K = {len(self.places)}, got {count} slots.")
        return self.places.expand(batch, count, 2)


class _State(NamedTuple):
    """Slots (B K D) and their frames: position (B K 2) and scale (B K 2), x and y apart."""

    slots: Tensor
    position: Tensor
    scale: Tensor


class InvariantSlotAttention(SlotAttention):
    """Slot Attention in which slot k sees token n at (g_n - p_k) / s_k, wherever the slot's object is in the image.

    g_n is the middle of token n as (x, y) in [0, 1], p_k the place of slot k and s_k its size along x and y. For
    t = 1..T, with the names of `SlotAttention`:

        G_kn = (g_n - p_k) / s_k
        A    = softmax over the K axis of Q_k . (Wk X^_n + Wg G_kn)
        W    = (A + epsilon) / sum over N of (A + epsilon)
        U_k  = sum over n of W_kn (Wv X^_n + Wg G_kn)
        p_k  = sum over n of W_kn g_n;  s_k = sqrt(sum over n of W_kn (g_n - p_k)^2)
        S    = GRU(input U, state S);  S = S + MLP(LayerNorm(S))

    and one more round gives A, p and s of the final slots. Keys and values of their own for every slot, (B K N D), are
    never formed: since Wg is linear, Q_k . Wg G_kn is one number per slot and column of the grid plus one per slot and
    row, and the sum of W_kn Wg G_kn is Wg (p_k' - p_k) / s_k with the new place p_k'. So it costs the memory of Slot
    Attention.

    Three parts of the published model are not here. Its further MLP on keys and values after the sum, which is what
    needs them per slot. Its rotation. And its decoder, which paints in the frames of the slots: the decoders here know
    where a slot is from its vector alone, so the tokens must hold their absolute position, as those of
    `ocl.encoders.cnn.CNNEncoder` do, and slots of such a model are not invariant to the last.

    Args:
        dim, token_dim, iterations, hidden_dim, epsilon, gradient: as in `SlotAttention`. "bilevel" hands the first
            places, too, the gradient of the last iteration's start.
        scale: False keeps s_k = 1, invariance to translation alone.
        places: initial slots (B K D) -> first places (B K 2); None is `UniformPlaces()`. First sizes are 1.
        least_scale: bound of s_k from below, in units of the image side; a slot on a single token would have 0. Not the
            paper's.
    """

    def __init__(
        self,
        dim: int,
        token_dim: int | None = None,
        iterations: int = 3,
        hidden_dim: int = 128,
        epsilon: float = 1e-8,
        gradient: Literal["full", "implicit", "bilevel"] = "full",
        scale: bool = False,
        places: nn.Module | None = None,
        least_scale: float = 0.01,
    ) -> None:
        super().__init__(dim, token_dim, iterations, hidden_dim, epsilon, gradient)
        if least_scale <= 0:
            raise ValueError(f"least_scale must be positive, got {least_scale}.")
        self.scale, self.least_scale = scale, least_scale
        self.places = UniformPlaces() if places is None else places
        self.relative = nn.Linear(2, dim, bias=False)  # Wg
        nn.init.xavier_uniform_(self.relative.weight)

    def forward(
        self,
        features: Features,
        slots: Tensor,
        iterations: int | None = None,
        hints: Hints | None = None,
        valid: Tensor | None = None,
    ) -> Slots:
        """tokens (B N F), initial slots (B K D) -> vectors (B K D), masks (B K h w), notes "position" (B K 2) as (x, y)
        in [0, 1] and, with `scale`, "scale" (B K 2). Slots that are not `valid` (B K) win nothing."""
        self._check(features, slots, valid)
        count = self._count(iterations)
        tokens, grid, rules = self.norm_tokens(features.tokens), features.grid, Rules(self.epsilon)
        places = self.places(slots)
        places = places.to(torch.promote_types(places.dtype, torch.float32))  # halves know 256 places
        state = _State(slots, places, torch.ones_like(places))
        if self.gradient != "full" and count > 1:
            with torch.no_grad():
                settled = self._rounds(Competition(tokens, rules, valid=valid), grid, state, count - 1)
            state = _State(*(self._last_start(end, start) for end, start in zip(settled, state, strict=True)))
            count = 1
        competition = Competition(tokens, rules, valid=valid)
        state = self._rounds(competition, grid, state, count)
        attention, _, position, scale = self._look(competition, grid, state)
        found = Slots.of(state.slots, attention.unflatten(-1, grid))
        notes = {"position": position, "scale": scale} if self.scale else {"position": position}
        return Slots(found.vectors, found.masks, found.valid if valid is None else valid, notes)

    def _rounds(self, competition: Competition, grid: tuple[int, int], state: _State, count: int) -> _State:
        for _ in range(count):
            _, update, position, scale = self._look(competition, grid, state)
            slots = self._gru(update, state.slots)
            state = _State(slots + self.mlp(self.norm_mlp(slots)), position, scale)
        return state

    def _look(
        self, competition: Competition, grid: tuple[int, int], state: _State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the slots win from where they are: A (B K N), U (B K D), new places and sizes (B K 2)."""
        slots, position, scale = state
        x, y = (_middles(length, position) for length in reversed(grid))
        query = self.query(self.norm_slots(slots)) * self.dim**-0.5
        slope = (query @ self.relative.weight) / scale  # (B K 2)
        across = slope[..., :1] * (x - position[..., :1])  # (B K w)
        down = slope[..., 1:] * (y - position[..., 1:])  # (B K h)
        bias = (down[..., :, None] + across[..., None, :]).flatten(-2)  # (B K N): Q_k . Wg G_kn
        attention, pooled = competition(query @ self.key.weight, bias)

        weights = competition.rules.weights(attention)[0].unflatten(-1, grid)  # (B K h w)
        moments = [_moments(weights.sum(dim=-2), x), _moments(weights.sum(dim=-1), y)]
        moved, variance = (torch.stack(axes, dim=-1) for axes in zip(*moments, strict=True))
        update = self.value(pooled) + self.relative(((moved - position) / scale).to(pooled.dtype))
        if self.scale:  # the root of a bounded number: that of 0 has no gradient
            scale = variance.clamp(min=self.least_scale**2).sqrt()
        return attention, update, moved, scale


def _middles(length: int, like: Tensor) -> Tensor:
    """(length) middles of that many equal parts of [0, 1]."""
    return (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) / length


def _moments(weights: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (B K) of places (n) under weights (B K n) that sum to one; no products of halves."""
    mean = (weights * places).sum(dim=-1)
    return mean, (weights * (places - mean[..., None]).square()).sum(dim=-1)

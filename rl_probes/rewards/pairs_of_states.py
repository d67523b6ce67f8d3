"""Hops between any two of a fixed set of states, for distances that ask about every pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_probes.rewards.hop_reward import CHANGE, HopReward
from rl_probes.rewards.set_embedding import marked

BLOCK = 256
"""Pairs at a time: the slots of one of their states (5 of width 128: 0.7 MB) fit a core's cache."""


class PairsOfStates:
    """`HopReward` as a `rl_probes.distances.Reward` whose states are indices into N states.

    The head's embeddings apply layers to each slot by itself before they look at the other ones: these are computed
    once per state instead of once per pair, the context of a pair is the larger of both states' contexts, and what the
    first layer after the pool makes of the change between two states is a difference of two vectors of states. The
    answers are the head's own but for rounding. Reads the head as it is now: make it anew after training.

    slots: (N K D), valid: (N K) bool, all True where absent.
    """

    @torch.no_grad()
    def __init__(self, head: HopReward, slots: Tensor, valid: Tensor | None = None) -> None:
        self.head = head
        valid = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device) if valid is None else valid
        standardised = head.standardised(slots.float(), valid)
        sides = [marked(standardised, mark) for mark in (-1.0, 1.0)]  # as first and as second state
        embedding = head.union
        self._context = [(embedding.psi(side) * valid[..., None]).amax(1) for side in sides]  # (N width)
        self._slots = [embedding.of_slot(side) for side in sides]  # (N K width)
        self._present = valid[..., None].float()  # (N K 1)
        self._padded = not bool(valid.all())
        self._count = valid.sum(1)
        mix, *rest = head.rho
        assert isinstance(mix, nn.Linear)
        self._mix, self._rest = mix, nn.Sequential(*rest)
        self._of_union, of_change = mix.weight.split(2 * head.hyperparameters["width"], dim=1)
        self._change = CHANGE * head.alone(standardised, valid) @ of_change.T  # (N width)

    @torch.no_grad()
    def __call__(self, states: NDArray[Any], actions: NDArray[Any], next_states: NDArray[Any]) -> NDArray[np.float32]:
        """Indices (n) of s and of s' -> (n) hops; actions are not read.

        Raises:
            IndexError: a state that is not there.
        """
        device = self._count.device
        first = torch.as_tensor(np.array(states), device=device)
        if len(next_states) and (next_states == next_states[0]).all():  # as a distance asks: all s with one s'
            second = torch.as_tensor(next_states[:1].copy(), device=device)
            return torch.cat([self._hops(part, second) for part in first.split(BLOCK)]).cpu().numpy()
        second = torch.as_tensor(np.array(next_states), device=device)
        blocks = [self._hops(*pair) for pair in zip(first.split(BLOCK), second.split(BLOCK), strict=True)]
        return torch.cat(blocks).cpu().numpy()

    def _hops(self, first: Tensor, second: Tensor) -> Tensor:
        """(p), and (p) or (1) for all of them -> (p)"""
        embedding, count = self.head.union, self._count[first] + self._count[second]
        contexts = (known.index_select(0, rows) for known, rows in zip(self._context, (first, second), strict=True))
        context = embedding.of_context(torch.maximum(*contexts))[:, None]
        largest, total = [], []
        for slots, rows in zip(self._slots, (first, second), strict=True):
            own = slots.index_select(0, rows)
            each = embedding.phi(own.add_(context) if len(own) == len(context) else own + context)  # (p K width)
            if self._padded:
                each *= self._present[rows]
            largest.append(each.amax(1))
            total.append(each.sum(1))
        pooled = torch.cat([torch.maximum(*largest), (total[0] + total[1]) / count.clamp(min=1)[:, None]], dim=1)
        change = self._change.index_select(0, second) - self._change.index_select(0, first)
        hidden = torch.addmm(change.add_(self._mix.bias), pooled, self._of_union.T)
        hop: Tensor = self._rest(hidden).squeeze(1).tanh()
        return hop.masked_fill((self._count[first] == 0) | (self._count[second] == 0), 0.0)

"""Encoders and agents that a result must beat before it means anything."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots


class RandomAgent:
    """Uniform over the actions, whatever the frame: chance, which is not zero on most tasks."""

    requires: frozenset[str] = frozenset()

    def __init__(self, num_actions: int) -> None:
        self.num_actions = num_actions

    def action_probabilities(self, batch: Batch) -> NDArray[np.float64]:
        return np.full((len(batch), self.num_actions), 1.0 / self.num_actions)


class BlindEncoder(ObjectEncoder):
    """One slot of one zero: an agent trained on it shows what can be had without looking."""

    requires = frozenset[str]()
    num_slots = 1
    dim = 1

    def encode(self, batch: Batch) -> Slots:
        return Slots.of(torch.zeros(len(batch), 1, 1))

    def describe(self) -> str:
        return "BlindEncoder"


class UnboundEncoder(ObjectEncoder):
    """Another encoder's slots with every feature permuted across the valid slots on its own.

    All values survive, but which belong to one object does not: what an agent loses by it is what the binding was
    worth. The permutation is a function of the feature values, so that equal frames give equal slots.
    """

    def __init__(self, encoder: ObjectEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.requires = encoder.requires
        self.num_slots = encoder.num_slots
        self.dim = encoder.dim

    def encode(self, batch: Batch) -> Slots:
        slots = self.encoder(batch)
        # Sorting each feature over the slots is such a permutation; padding sorts to the end and stays padding.
        padded = slots.vectors.masked_fill(~slots.valid.unsqueeze(-1), torch.inf).sort(dim=1).values  # (B K D)
        count = slots.valid.sum(dim=1, keepdim=True)  # (B 1)
        valid = torch.arange(self.num_slots, device=count.device) < count  # (B K)
        return Slots(padded.masked_fill(~valid.unsqueeze(-1), 0.0), None, valid)

    def describe(self) -> str:
        return f"UnboundEncoder({self.encoder.describe()})"

"""Pooling over pairs: what two slots have to do with each other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from rl_probes.observation import unpack
from rl_probes.pooling import Pooling


class RelationPooling(Pooling):
    """max over ordered pairs of g(s_i, s_j), a slot with itself included (Santoro et al. 2017); PPO's heads are the f.
    Blind to order, any K.

    The paper sums over pairs. The maximum keeps the scale of the result with another number of slots; g ends in a ReLU,
    so that zero is neutral and padding is multiplied away. Its first layer is linear in each slot of a pair, so it is
    computed per slot and added per pair: K products instead of K².

    Args:
        width, layers: of g.

    Raises:
        ValueError: fewer than two layers, with which g would add what each slot says alone.
    """

    def __init__(self, observation_space: spaces.Space[Any], width: int = 128, layers: int = 2) -> None:
        super().__init__(observation_space, width, width=width, layers=layers)
        if layers < 2:
            raise ValueError(f"RelationPooling needs at least 2 layers to relate slots, got {layers}.")
        self.first = nn.Linear(self.dim, width)
        self.second = nn.Linear(self.dim, width, bias=False)
        sizes = [width] * layers
        self.relate = nn.Sequential(nn.ReLU(), *(m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())))

    def forward(self, observations: Tensor) -> Tensor:
        vectors, valid = unpack(observations)
        pairs = self.first(vectors).unsqueeze(2) + self.second(vectors).unsqueeze(1)  # (B K K width)
        related = self.relate(pairs) * (valid.unsqueeze(2) & valid.unsqueeze(1)).unsqueeze(-1)
        return torch.as_tensor(related.amax(dim=(1, 2)))

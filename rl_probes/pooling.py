"""From a set of slots to one vector: the part of the agent between the frozen features and PPO's heads.

Each is a features extractor of Stable-Baselines3 over observations (K, D + 1) as `rl_probes.observation.pack` makes
them. Leave the policy's orthogonal initialisation on: it reaches into these layers, and transformer pooling learns
object comparison far more slowly without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from rl_probes.maximum import set_maximum
from rl_probes.observation import unpack


class Pooling(BaseFeaturesExtractor):
    """(B K D+1) -> (B features_dim). `init_args` rebuilds it: everything but the observation space.

    by_place: whether it knows slots by their places, so that features are read less the mean of their place.

    Raises:
        ValueError: another observation space, or a size below 1.
    """

    by_place: ClassVar[bool] = False

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int, **init_args: Any) -> None:
        shape = observation_space.shape
        if not isinstance(observation_space, spaces.Box) or shape is None or len(shape) != 2 or shape[1] < 2:
            raise ValueError(f"pooling needs a Box of shape (K, D + 1), got {observation_space}.")
        sizes = {name: value for name, value in init_args.items() if isinstance(value, int)}
        if min(sizes.values(), default=1) < 1:
            raise ValueError(f"{type(self).__name__} needs sizes of at least 1, got {sizes}.")
        super().__init__(observation_space, features_dim)
        self.num_slots, self.dim = shape[0], shape[1] - 1
        self.init_args = init_args


class DeepSetPooling(Pooling):
    """max_k phi(s_k) over valid slots, phi an MLP (Zaheer et al. 2017); PPO's heads are the rho. Blind to order, any K.

    phi ends in a ReLU, so zero is the neutral element of the maximum: padding is multiplied away, and an image without
    any valid slot pools to zero.
    """

    def __init__(self, observation_space: spaces.Space[Any], width: int = 128, layers: int = 2) -> None:
        super().__init__(observation_space, width, width=width, layers=layers)
        sizes = [self.dim] + [width] * layers
        self.phi = nn.Sequential(
            *(m for size_in, size_out in pairwise(sizes) for m in (nn.Linear(size_in, size_out), nn.ReLU()))
        )

    def forward(self, observations: Tensor) -> Tensor:
        vectors, valid = unpack(observations)
        features: Tensor = self.phi(vectors) * valid.unsqueeze(-1).to(vectors.dtype)  # (B K width)
        return set_maximum(features)


class TransformerPooling(Pooling):
    """Linear to `width`, a learned class token beside the slots, post-norm transformer layers; the class token's output
    (Yoon et al., ICML 2023). No position code, so blind to order, any K.

    Dropout is zero: PPO's ratio compares the update's policy with the rollout's, and dropout would make them two.

    Raises:
        ValueError: a width that the heads cannot share.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        width: int = 128,
        heads: int = 8,
        layers: int = 1,
        feed_forward: int = 512,
    ) -> None:
        super().__init__(observation_space, width, width=width, heads=heads, layers=layers, feed_forward=feed_forward)
        if width % heads:
            raise ValueError(f"TransformerPooling: {heads} heads must share the width evenly, got width {width}.")
        self.project = nn.Linear(self.dim, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, feed_forward, dropout=0.0, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, observations: Tensor) -> Tensor:
        vectors, valid = unpack(observations)
        tokens = torch.cat(
            [self.class_token.expand(len(vectors), -1, -1), self.project(vectors)], dim=1
        )  # (B K+1 width)
        ignored = torch.cat([valid.new_zeros(len(valid), 1), ~valid], dim=1)  # (B K+1)
        encoded: Tensor = self.transformer(tokens, src_key_padding_mask=ignored)
        return encoded[:, 0]


class FlattenPooling(Pooling):
    """One hidden layer on the concatenated slots: sees their order, needs the K it was built with. For encoders whose
    slots have fixed places (patches, a pooled vector)."""

    by_place = True

    def __init__(self, observation_space: spaces.Space[Any], width: int = 128) -> None:
        super().__init__(observation_space, width, width=width)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(self.num_slots * (self.dim + 1), width), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        pooled: Tensor = self.layers(observations)
        return pooled

"""A trained policy with the frozen encoder it was trained on: frames in, action probabilities out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from ocl.representations import ObjectEncoder
from ocl.shapes import Batch
from rl_probes import snapshot
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import Pooling

PoolingFactory = Callable[[spaces.Box], Pooling]
"""Builds a pooling for an observation space: `functools.partial(DeepSetPooling, width=64)`, or a class path in YAML."""

IN_ORDER = "a pooling that sees slots in order accepts only the number it was trained with."


class Agent:
    """What acts and is evaluated. The encoder stays outside `policy`; `save` writes the policy without it."""

    def __init__(self, observer: Observer, policy: ActorCriticPolicy) -> None:
        self.observer = observer
        self.policy = policy

    @property
    def requires(self) -> frozenset[str]:
        return self.observer.requires

    @torch.no_grad()
    def action_probabilities(self, batch: Batch) -> NDArray[np.float64]:
        """(B A)"""
        self.policy.set_training_mode(False)
        observations = torch.from_numpy(self.observer(batch)).to(self.policy.device)
        distribution = cast(torch.distributions.Categorical, self.policy.get_distribution(observations).distribution)
        return distribution.probs.double().cpu().numpy()

    def save(self, path: str | Path) -> Path:
        """One safetensors file: the policy's weights, how it was built, and which encoder it belongs to."""
        standardisation = self.observer.standardisation
        return snapshot.save(
            path,
            {
                "policy": weights(self.policy),
                "pooling": describe(cast(Pooling, self.policy.features_extractor)),
                "num_actions": int(cast(spaces.Discrete, self.policy.action_space).n),
                "num_slots": self.observer.encoder.num_slots,
                "encoder": self.observer.encoder.fingerprint,
                "standardisation": {"mean": standardisation.mean, "std": standardisation.std},
            },
        )

    @staticmethod
    def load(path: str | Path, encoder: ObjectEncoder, pooling: PoolingFactory) -> Agent:
        """The agent in `path` on an encoder that may give another number of slots than in training.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a damaged file, another encoder or pooling, or a pooling that needs the slots it was built for.
        """
        saved = snapshot.load(path)
        if not {"policy", "pooling", "num_actions", "num_slots"} <= saved.keys():
            raise ValueError(f"{path} is not an agent; name the agent.safetensors of a run.")
        # The fingerprint covers the number of slots too, so it can only be compared where that is the same.
        if encoder.num_slots == saved["num_slots"] and encoder.fingerprint != saved["encoder"]:
            raise ValueError(
                f"{path} was trained on encoder {saved['encoder'][:12]}, but this one is {encoder.fingerprint[:12]}."
            )
        standardisation = Standardisation(**saved["standardisation"])
        if standardisation.mean.ndim == 2 and encoder.num_slots != saved["num_slots"]:
            raise ValueError(
                f"{path} was trained on {saved['num_slots']} slots, this encoder gives {encoder.num_slots}; {IN_ORDER}"
            )
        observer = Observer(encoder, standardisation)
        policy = ActorCriticPolicy(
            spaces.Box(-np.inf, np.inf, observer.shape, np.float32),
            spaces.Discrete(saved["num_actions"]),
            lr_schedule=lambda _: 0.0,
            **policy_arguments(pooling),
        )
        if describe(cast(Pooling, policy.features_extractor)) != saved["pooling"]:
            raise ValueError(f"{path} was trained with pooling {saved['pooling']}; load it with the same.")
        load_weights(policy, saved["policy"], str(path))
        return Agent(observer, policy)


def policy_arguments(pooling: PoolingFactory) -> dict[str, Any]:
    """Stable-Baselines3's defaults (two separate 64-64 tanh heads, orthogonal initialisation) behind the pooling."""
    return {"features_extractor_class": pooling}


def describe(pooling: Pooling) -> dict[str, Any]:
    """Class path and arguments, as a config file would name them."""
    kind = type(pooling)
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": pooling.init_args}


def weights(policy: ActorCriticPolicy) -> dict[str, Tensor]:
    """Parameters and buffers, each once: the state dict names a shared features extractor three times."""
    return dict(chain(policy.named_parameters(), policy.named_buffers()))


@torch.no_grad()
def load_weights(policy: ActorCriticPolicy, arrays: dict[str, NDArray[Any]], source: str) -> None:
    """Raises ValueError where names or shapes differ."""
    own = weights(policy)
    if own.keys() != arrays.keys():
        raise ValueError(f"{source} holds other weights than this policy: {sorted(own.keys() ^ arrays.keys())[:4]}.")
    for name, array in arrays.items():
        if own[name].shape != array.shape:
            raise ValueError(
                f"{source} holds {name} of shape {array.shape} where this policy has {tuple(own[name].shape)}; "
                f"{IN_ORDER}"
            )
        own[name].copy_(torch.from_numpy(array))

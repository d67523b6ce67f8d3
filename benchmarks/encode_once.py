"""Environment steps per second of PPO: features once per step, against the same encoder inside the policy.

python benchmarks/encode_once.py [--epochs 4] [--rollouts 3]

Both train the same pooling and heads on Object Comparison frames with the same encoder (a strided CNN with slot
attention), in one process, one torch thread, taking turns. Inside the policy, as a features extractor of
Stable-Baselines3, the encoder runs again on every minibatch of every epoch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel, ObjectEncoder
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from rl_probes import ppo
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.observation import Observer, Standardisation, pack
from rl_probes.pooling import DeepSetPooling, Pooling
from rl_probes.ppo import PPOConfig


class PixelObserver:
    """Frames as they are, for a policy that encodes them itself."""

    requires = frozenset({"images"})
    shape = (3, 64, 64)

    def __call__(self, batch: Batch) -> np.ndarray[Any, Any]:
        return batch.images.numpy()


class EncodeInside(Pooling):
    """The encoder as part of the policy, with the same pooling behind it."""

    def __init__(self, observation_space: spaces.Box, encoder: ObjectEncoder) -> None:
        features = spaces.Box(-np.inf, np.inf, (encoder.num_slots, encoder.dim + 1), np.float32)
        super().__init__(features, 128)
        self.encoder = encoder
        self.pooling = DeepSetPooling(features)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        slots = self.encoder(Batch(observations))
        return self.pooling(pack(slots.vectors, slots.valid))


def slot_encoder() -> ObjectEncoder:
    torch.manual_seed(0)
    cnn = CNNEncoder((64, 64), dim=32, channels=32, strides=(2, 2, 1, 1))
    grouping = SlotAttention(dim=64, token_dim=32)
    return FrozenSlotModel(ObjectCentricModel(cnn, RandomSlots(6, 64), grouping, BroadcastDecoder(64)))


def model(inside: bool, epochs: int) -> PPO:
    config = PPOConfig(n_epochs=epochs)
    world, encoder = SpriteWorld(ObjectComparison(), 32), slot_encoder()
    if not inside:
        observer = Observer(encoder, Standardisation.identity(encoder.dim))
        return ppo.build(FrozenFeatureVecEnv(world, observer), DeepSetPooling, config, seed=0)
    env = FrozenFeatureVecEnv(world, PixelObserver())  # type: ignore[arg-type]
    env.observation_space = spaces.Box(0, 255, PixelObserver.shape, np.uint8)
    built = PPO(
        "MlpPolicy",
        env,
        seed=0,
        device="cpu",
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        n_epochs=epochs,
        policy_kwargs={"features_extractor_class": EncodeInside, "features_extractor_kwargs": {"encoder": encoder}},
    )
    built.set_logger(Logger(folder=None, output_formats=[]))
    return built


def rollout(trained: PPO) -> Callable[[], float]:
    _, callback = trained._setup_learn(10**9)

    def run() -> float:
        start = time.perf_counter()
        trained.collect_rollouts(trained.env, callback, trained.rollout_buffer, trained.n_steps)
        trained.train()
        return trained.n_steps * trained.n_envs / (time.perf_counter() - start)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    runs = {inside: rollout(model(inside, arguments.epochs)) for inside in (False, True)}
    for run in runs.values():
        run()  # not counted
    speeds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(arguments.rollouts):  # in turns, so that a busy machine slows both
        for inside, run in runs.items():
            speeds[inside].append(run())
    ratios = [once / again for once, again in zip(speeds[False], speeds[True], strict=True)]

    table = Table(title=f"PPO, {arguments.epochs} epochs, 32 environments × 64 steps, minibatch 256, one thread")
    table.add_column("encoder")
    table.add_column("environment steps/s", justify="right")
    for name, inside in (("once per step", False), ("inside the policy", True)):
        table.add_row(name, f"{statistics.median(speeds[inside]):,.0f}")
    table.add_row("ratio", f"{statistics.median(ratios):.1f} [{min(ratios):.1f}, {max(ratios):.1f}]")
    Console().print(table)


if __name__ == "__main__":
    main()

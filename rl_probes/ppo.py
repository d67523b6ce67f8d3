"""PPO on frozen features: Stable-Baselines3's algorithm, our loop around it, so that a killed run continues exactly.

`learn` of Stable-Baselines3 cannot resume exactly: its zip holds no generator and no environment. The loop here calls
the same `collect_rollouts` and `train`, and at rollout boundaries writes everything that decides the continuation.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from ocl.commands import check_device
from ocl.files import read_json, remove_leftovers, write_json
from ocl.manifest import write_manifest
from ocl.representations import ObjectEncoder
from rl_probes import snapshot
from rl_probes.agent import Agent, PoolingFactory, describe, load_weights, policy_arguments, weights
from rl_probes.closing_loop import Changes, HackingMonitor, HackingWarning, RewardScheme
from rl_probes.envs.vector import FrozenFeatureVecEnv, RewardScaling, random_play_statistics
from rl_probes.envs.world import World
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import Pooling
from rl_probes.progress import WINDOW, ProgressLog


@dataclass(frozen=True)
class PPOConfig:
    """Schulman et al. 2017, in the names of Stable-Baselines3; the defaults suit 32 environments of the sprite world.

    n_steps: steps per environment and rollout. A minibatch must divide n_steps * num_envs.

    Raises:
        ValueError: a number outside its range.
    """

    n_steps: int = 64
    batch_size: int = 256
    n_epochs: int = 4
    learning_rate: float = 1e-3
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5

    def __post_init__(self) -> None:
        counts = (self.n_steps >= 1, self.n_epochs >= 1, self.batch_size >= 2)  # of one, advantages have no deviation
        shares = (0 < self.gamma <= 1, 0 <= self.gae_lambda <= 1)
        sizes = (self.learning_rate, self.clip_range, self.max_grad_norm)
        weighed = all(0 <= weight < float("inf") for weight in (self.ent_coef, self.vf_coef))
        if not (all(counts) and all(shares) and all(0 < size < float("inf") for size in sizes) and weighed):
            raise ValueError(
                "PPO needs n_steps and n_epochs of at least 1, batch_size of at least 2, gamma in (0, 1], gae_lambda "
                "in [0, 1], positive learning_rate, clip_range and max_grad_norm, and ent_coef and vf_coef that are "
                f"not negative; got {asdict(self)}."
            )


@runtime_checkable
class KnowsCoverage(Protocol):
    """A world that counts what has been seen of it, such as `rl_probes.envs.maze.MazeWorld`."""

    def coverage(self) -> float: ...


def build(env: FrozenFeatureVecEnv, pooling: PoolingFactory, config: PPOConfig, seed: int, device: str = "cpu") -> PPO:
    """Stable-Baselines3's PPO over `env`, logging nowhere by itself.

    Raises:
        ValueError: a minibatch that does not divide the rollout.
    """
    rollout = config.n_steps * env.num_envs
    if rollout % config.batch_size:
        raise ValueError(
            f"batch_size {config.batch_size} must divide the rollout of n_steps {config.n_steps} x {env.num_envs} "
            f"environments = {rollout}."
        )
    model = PPO(
        "MlpPolicy",
        env,
        seed=seed,
        device=device,
        policy_kwargs=policy_arguments(pooling),
        stats_window_size=WINDOW,
        **asdict(config),
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def train(
    world: World,
    encoder: ObjectEncoder,
    pooling: PoolingFactory,
    *,
    folder: str | Path,
    total_steps: int,
    seed: int = 0,
    config: PPOConfig = PPOConfig(),
    standardisation: Standardisation | None = None,
    bootstrap_timeouts: bool = True,
    scale_rewards: bool = False,
    reward: RewardScheme | None = None,
    monitor: HackingMonitor | None = None,
    snapshot_every: int = 10,
    device: str = "cpu",
) -> Agent:
    """Train on frozen features until at least `total_steps` environment steps; continue where `folder` has a snapshot.

    On CPU with one torch thread, a run killed at any moment and started again ends in the same weights, bit for bit,
    as one that was left alone. A finished run continues when `total_steps` grows.

    Writes into `folder`: manifest.json, progress.csv, TensorBoard events, snapshot.safetensors, agent.safetensors.

    Args:
        world: seeded by its own constructor; `seed` covers the policy's weights, actions and minibatches.
        standardisation: from the encoder's pretraining features; None measures 2048 random-play frames of `world`.
        bootstrap_timeouts, scale_rewards: see `FrozenFeatureVecEnv` and `RewardScaling`.
        reward: what the agent is paid by; None: the world itself. Logged returns and successes stay the world's own;
            "predicted_return" stands beside them.
        monitor: says when a predicted reward is fooled; its verdict is noted in progress.csv ("hacking") and in
            manifest.json, and ends the run where the monitor says so.
        snapshot_every: rollouts between snapshots.
        device: of the policy; the encoder runs where its weights are.

    Raises:
        ValueError: total_steps or snapshot_every below 1, a seed outside 0..2**32 - 1, a device that is not here,
            another experiment in `folder`, a damaged snapshot, a minibatch that does not divide the rollout, a head of
            another encoder, a monitor without a predicted reward, or a reward that is not finite.
    """
    _check_arguments(total_steps, snapshot_every, seed, device)
    if monitor is not None and reward is None:
        raise ValueError("monitor compares a predicted with the true reward; give the run a predicted `reward`.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    snapshot_path = folder / "snapshot.safetensors"
    saved = snapshot.load(snapshot_path) if snapshot_path.exists() else None
    if saved is None:
        _check_free(folder)
    elif "experiment" not in saved:
        raise ValueError(f"{snapshot_path} is not the snapshot of a run; delete it or restore it from a copy.")

    experiment: dict[str, Any] = {
        "ppo": asdict(config),
        "encoder": encoder.fingerprint,
        "world": world.provenance(),
        "num_envs": world.num_envs,
        "bootstrap_timeouts": bootstrap_timeouts,
        "scale_rewards": scale_rewards,
        "standardisation": "measured" if standardisation is None else "given",
        "reward": None if reward is None else reward.describe(),
        "monitor": None if monitor is None else monitor.describe(),
        "seed": seed,
    }
    if saved is not None:
        _check_same(experiment, saved["experiment"], folder)
        own = Standardisation(**saved["standardisation"])
        if standardisation is not None and not standardisation.same_as(own):
            raise ValueError(f"{folder} holds a run with another standardisation; choose another folder.")
        standardisation = own
    elif standardisation is None:
        by_place = _knows_places(pooling, encoder)
        standardisation = random_play_statistics(world, encoder, seed=seed, by_place=by_place)
    scaling = RewardScaling(config.gamma) if scale_rewards else None
    paid = None
    if reward is not None:
        with torch.random.fork_rng():  # its weights are the seed's; those of the policy are as without it
            torch.manual_seed(seed)
            paid = reward.build(encoder, config.gamma)
    learner = None if reward is None or paid is None else reward.learner(paid)
    env = FrozenFeatureVecEnv(world, Observer(encoder, standardisation), bootstrap_timeouts, scaling, paid)
    model = build(env, pooling, config, seed, device)
    agent = Agent(env.observer, model.policy)
    experiment["pooling"] = describe(cast(Pooling, model.policy.features_extractor))

    _, callback = model._setup_learn(total_steps, None if monitor is None else _Watch(monitor))
    seconds = 0.0
    if saved is None:
        description = {"class": type(encoder).__name__, "description": encoder.describe()}
        write_manifest(folder, config=experiment | {"total_steps": total_steps}, seed=seed, encoder=description)
        if monitor is not None:
            monitor.reset()
    else:
        _check_same(experiment, saved["experiment"], folder)
        seconds = _restore(model, env, saved)
        if monitor is not None:
            monitor.set_state(saved["monitor"])
        if learner is not None:
            learner.set_state(saved["learner"])

    rollouts = 0
    stopped = monitor is not None and monitor.stop and monitor.fired_at is not None
    with ProgressLog(folder, total_steps, model.num_timesteps) as log:
        while model.num_timesteps < total_steps and not stopped:
            start = time.perf_counter()
            model.collect_rollouts(env, callback, model.rollout_buffer, config.n_steps)
            learnt = {} if learner is None else learner.step(model)
            model.train()
            rollouts += 1
            elapsed = time.perf_counter() - start
            seconds += elapsed
            row = _row(model, seconds, model.rollout_buffer.actions.size / elapsed) | learnt
            if monitor is not None:
                changes = monitor.check(model.num_timesteps)
                row["hacking"] = float(changes is not None)
                if changes is not None and monitor.fired_at == model.num_timesteps:
                    _note(folder, monitor, changes)
                    stopped = monitor.stop
            log.write(row)
            if rollouts % snapshot_every == 0 or model.num_timesteps >= total_steps or stopped:
                beside: dict[str, Any] = {"experiment": experiment}
                if monitor is not None:
                    beside["monitor"] = monitor.state()
                if learner is not None:
                    beside["learner"] = learner.state()
                snapshot.save(snapshot_path, _state(model, env, seconds) | beside)
    agent.save(folder / "agent.safetensors")
    return agent


class _Watch(BaseCallback):
    """Tells the monitor of every episode that ends."""

    def __init__(self, monitor: HackingMonitor) -> None:
        super().__init__()
        self._monitor = monitor

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._monitor.add(info["episode"]["predicted"], info["episode"]["r"])
        return True


def _note(folder: Path, monitor: HackingMonitor, changes: Changes) -> None:
    """Write the verdict into the manifest, and warn."""
    path = folder / "manifest.json"
    parts = {"predicted": changes.predicted._asdict(), "true": changes.true._asdict()}
    verdict = {"fired_at": monitor.fired_at, "episodes": changes.episodes, **parts}
    write_json(path, read_json(path) | {"hacking": verdict})
    warnings.warn(
        f"{folder}: after {monitor.fired_at} steps the predicted return rises ({changes.predicted.value:+.3g} over the "
        f"last {changes.episodes} episodes) while the true return falls ({changes.true.value:+.3g}); training "
        f"{'stops' if monitor.stop else 'goes on'}.",
        HackingWarning,
        stacklevel=3,
    )


def _knows_places(pooling: PoolingFactory, encoder: ObjectEncoder) -> bool:
    with torch.random.fork_rng(devices=[]):  # the weights of this one are nobody's
        return pooling(spaces.Box(-np.inf, np.inf, (encoder.num_slots, encoder.dim + 1), np.float32)).by_place


def _check_arguments(total_steps: int, snapshot_every: int, seed: int, device: str) -> None:
    """Raises ValueError for what would fail later, or, as a device that is missing, be replaced without a word."""
    if min(total_steps, snapshot_every) < 1:
        raise ValueError(f"total_steps and snapshot_every must be at least 1, got {total_steps} and {snapshot_every}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in 0..2**32 - 1, got {seed}.")
    check_device(device)


def _check_free(folder: Path) -> None:
    """Raises ValueError where a folder without a snapshot holds the manifest of something else than such a run."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    manifest = read_json(path)
    config = manifest.get("config") if isinstance(manifest, dict) else None
    if not isinstance(config, dict) or not {"ppo", "encoder", "world"} <= config.keys():
        raise ValueError(f"{folder} holds something else than a run of PPO; choose another folder.")


def _check_same(experiment: dict[str, Any], saved: dict[str, Any], folder: Path) -> None:
    """Raises ValueError where what is known of this experiment differs from the one that was saved; what a snapshot of
    an earlier version does not tell is not compared."""
    same_types: dict[str, Any] = json.loads(json.dumps(experiment))  # tuples come back as lists
    different = [name for name, value in same_types.items() if saved.get(name, value) != value]
    if different:
        raise ValueError(f"{folder} holds a run with another {', '.join(different)}; choose another folder.")


def _row(model: PPO, seconds: float, steps_per_second: float) -> dict[str, float]:
    """Return, length and success over the last `episodes`, at most `WINDOW`; losses of the last update; what reward and
    world add."""
    episodes = list(model.ep_info_buffer or [])
    values = model.logger.name_to_value
    env = cast(FrozenFeatureVecEnv, model.env)
    predicted = {} if env.step_reward is None else {"predicted_return": _mean([e["predicted"] for e in episodes])}
    covered = {"coverage": env.world.coverage()} if isinstance(env.world, KnowsCoverage) else {}
    return {
        "steps": model.num_timesteps,
        "seconds": seconds,
        "steps_per_second": steps_per_second,
        "return": _mean([episode["r"] for episode in episodes]),
        "length": _mean([episode["l"] for episode in episodes]),
        "success": _mean(list(model.ep_success_buffer or [])),
        "episodes": len(episodes),
        "policy_loss": values["train/policy_gradient_loss"],
        "value_loss": values["train/value_loss"],
        "entropy": -values["train/entropy_loss"],
        "approximate_kl": values["train/approx_kl"],
        "clip_fraction": values["train/clip_fraction"],
        "explained_variance": values["train/explained_variance"],
        **predicted,
        **covered,
    }


def _mean(values: list[Any]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _state(model: PPO, env: FrozenFeatureVecEnv, seconds: float) -> dict[str, Any]:
    """All that decides the next rollout and update, and the figures that would otherwise start again."""
    standardisation = env.observer.standardisation
    optimiser = model.policy.optimizer.state_dict()["state"]
    return {
        "steps": model.num_timesteps,
        "updates": model._n_updates,
        "seconds": seconds,
        "policy": weights(model.policy),
        "optimiser": {str(index): moments for index, moments in optimiser.items()},
        "random": snapshot.random_state(),
        "environments": env.state(),
        "last_observations": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
        "episodes": list(model.ep_info_buffer or []),
        "successes": list(model.ep_success_buffer or []),
        "standardisation": {"mean": standardisation.mean, "std": standardisation.std},
    }


def _restore(model: PPO, env: FrozenFeatureVecEnv, saved: dict[str, Any]) -> float:
    """Put `_state` back; returns the seconds trained so far. The generators come last: nothing may draw after them."""
    load_weights(model.policy, saved["policy"], "the snapshot")
    optimiser = model.policy.optimizer
    moments = {int(index): snapshot.tensors(arrays) for index, arrays in saved["optimiser"].items()}
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    env.set_state(saved["environments"])
    model._last_obs = saved["last_observations"]
    model._last_episode_starts = saved["last_episode_starts"]
    model.num_timesteps = saved["steps"]
    model._n_updates = saved["updates"]
    model.ep_info_buffer = deque(saved["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(saved["successes"], maxlen=model._stats_window_size)
    snapshot.set_random_state(saved["random"])
    return float(saved["seconds"])

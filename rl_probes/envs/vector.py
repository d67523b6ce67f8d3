"""A `World` as Stable-Baselines3 sees it: frozen features instead of frames, computed once per environment step."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv

from ocl.representations import ObjectEncoder
from ocl.shapes import Slots
from rl_probes.envs.world import Outcome, World
from rl_probes.observation import Observer, Standardisation, concatenate


class RewardScaling:
    """Divide rewards by the running standard deviation of the discounted return, and clip to +-10.

    What PPO on Procgen is published with (Cobbe et al. 2020). Reported returns stay unscaled.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._statistics = RunningMeanStd(shape=())
        self._returns = np.zeros(0)

    def __call__(self, reward: NDArray[np.float32], done: NDArray[np.bool_]) -> NDArray[np.float32]:
        """reward, done (B,) -> (B,)"""
        if len(self._returns) != len(reward):
            self._returns = np.zeros(len(reward))
        self._returns = self._returns * self.gamma + reward
        self._statistics.update(self._returns)
        self._returns[done] = 0.0
        return np.clip(reward / np.sqrt(self._statistics.var + 1e-8), -10.0, 10.0).astype(np.float32)

    def state(self) -> dict[str, Any]:
        moments = [self._statistics.mean, self._statistics.var, self._statistics.count]
        return {"moments": np.array(moments, np.float64), "returns": self._returns.copy()}

    def set_state(self, state: dict[str, Any]) -> None:
        mean, variance, count = state["moments"]
        self._statistics.mean, self._statistics.var, self._statistics.count = np.array(mean), np.array(variance), count
        self._returns = np.array(state["returns"])


class StepReward(Protocol):
    """What pays in the place of the world, reading slots that are encoded already; see
    `rl_probes.rewards.function.RewardFunction`."""

    def __call__(
        self,
        frames: Slots,
        next_frames: Slots,
        /,
        actions: NDArray[Any] | None = None,
        rewards: NDArray[Any] | None = None,
        terminated: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]: ...

    def reset(self, environments: NDArray[np.bool_] | None = None) -> None: ...

    def state(self) -> dict[str, Any]: ...

    def set_state(self, state: dict[str, Any]) -> None: ...


class FrozenFeatureVecEnv(VecEnv):
    """B environments whose observations are the observer's slots, (B, K, D + 1).

    One batched call of the encoder per step covers all environments and the terminal frames of those that finished;
    update epochs read features from the rollout buffer and never meet the encoder. Finished environments restart
    within the step, as Stable-Baselines3 expects. Each finished episode reports `info["episode"]` (r: unscaled
    return, l: length) and, where the world tells, `info["is_success"]`.

    bootstrap_timeouts: True marks time-outs as truncations, so that PPO adds the value of the terminal observation;
        False treats them as the task's end (as published Procgen results do).
    reward_scaling: applied to what PPO sees; None leaves rewards as they are.
    step_reward: pays what PPO sees, from the slots of the observations themselves (nothing is encoded twice), terminal
        ones included, in one call for all environments. Each finished episode then also reports
        `info["episode"]["predicted"]`, the sum of what it paid; "r" stays the world's own return. Time-outs count as
        terminations for it where PPO takes them as such.

    Raises:
        ValueError: the encoder requires a field that the world cannot fill; a reward that is not finite.
    """

    def __init__(
        self,
        world: World,
        observer: Observer,
        bootstrap_timeouts: bool = True,
        reward_scaling: RewardScaling | None = None,
        step_reward: StepReward | None = None,
    ) -> None:
        missing = observer.requires - world.fields
        if missing:
            raise ValueError(
                f"the encoder requires {sorted(missing)}, which {type(world).__name__} cannot give; "
                f"it has {sorted(world.fields)}."
            )
        wanted = getattr(observer.encoder, "image_size", None)
        if "images" in observer.requires and isinstance(wanted, tuple) and wanted != world.image_size:
            warnings.warn(
                f"{type(world).__name__}: frames of {world.image_size} are resized to {wanted}, the encoder's; give "
                "the world that image_size, where it takes one, to draw what the encoder was trained on.",
                stacklevel=2,
            )
        self.world = world
        self.observer = observer
        self.bootstrap_timeouts = bootstrap_timeouts
        self.reward_scaling = reward_scaling
        self.step_reward = step_reward
        super().__init__(
            world.num_envs,
            spaces.Box(-np.inf, np.inf, observer.shape, np.float32),
            spaces.Discrete(world.num_actions),
        )
        self._actions = np.zeros(world.num_envs, np.int64)
        self._returns = np.zeros(world.num_envs, np.float64)
        self._lengths = np.zeros(world.num_envs, np.int64)
        self._predicted = np.zeros(world.num_envs, np.float64)
        self._slots: Slots | None = None  # of the last observations

    def reset(self) -> NDArray[np.float32]:  # type: ignore[override]
        self.world.reset()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._predicted[:] = 0.0
        if self.step_reward is not None:
            self.step_reward.reset()
        self._slots = self.observer.slots(self.world.observe(self.observer.requires))
        return self.observer.of_slots(self._slots)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = np.asarray(actions, np.int64)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:  # type: ignore[override]
        outcome = self.world.step(self._actions)
        if not np.isfinite(outcome.reward).all():
            raise ValueError(f"{type(self.world).__name__} paid a reward that is NaN or infinite: {outcome.reward}.")
        done = outcome.terminated | outcome.truncated
        self._returns += outcome.reward
        self._lengths += 1
        finished = np.flatnonzero(done)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]

        if len(finished) == 0:
            frames = self.world.observe(self.observer.requires)
        else:
            terminal_frames = self.world.observe(self.observer.requires, finished)
            self.world.reset(finished)
            frames = concatenate(self.world.observe(self.observer.requires), terminal_frames)
        encoded = self.observer.slots(frames)
        observations, terminal = np.split(self.observer.of_slots(encoded), [self.num_envs])
        # A copy: Stable-Baselines3 adds the bootstrapped value to it in place.
        reward = np.array(outcome.reward, np.float32) if self.step_reward is None else self._paid(outcome, encoded)

        for index, observation in zip(finished, terminal, strict=True):
            infos[index] = {
                "terminal_observation": observation,
                "TimeLimit.truncated": self.bootstrap_timeouts
                and bool(outcome.truncated[index] and not outcome.terminated[index]),
                "episode": {"r": float(self._returns[index]), "l": int(self._lengths[index])},
            }
            if self.step_reward is not None:
                infos[index]["episode"]["predicted"] = float(self._predicted[index])
            if "success" in outcome.info:
                infos[index]["is_success"] = bool(outcome.info["success"][index])
        self._returns[finished] = 0.0
        self._lengths[finished] = 0
        self._predicted[finished] = 0.0

        if self.reward_scaling is not None:
            reward = self.reward_scaling(reward, done)
        return observations, reward, done, infos

    def _paid(self, outcome: Outcome, encoded: Slots) -> NDArray[np.float32]:
        """(B,) of the step reward. encoded: slots of the B new observations, then of the terminal frames."""
        assert self.step_reward is not None
        assert self._slots is not None
        done = outcome.terminated | outcome.truncated
        vectors, valid = encoded.vectors[: self.num_envs], encoded.valid[: self.num_envs]
        before, self._slots, reached = self._slots, Slots(vectors, None, valid), Slots(vectors, None, valid)
        if done.any():
            ended = torch.from_numpy(done).to(vectors.device)
            reached = Slots(vectors.clone(), None, valid.clone())
            reached.vectors[ended] = encoded.vectors[self.num_envs :]
            reached.valid[ended] = encoded.valid[self.num_envs :]
        over = outcome.terminated if self.bootstrap_timeouts else done
        paid = np.array(
            self.step_reward(before, reached, actions=self._actions, rewards=outcome.reward, terminated=over),
            np.float32,
        )
        if not np.isfinite(paid).all():
            raise ValueError(
                "the predicted reward holds NaN or infinity; check the predictor and what it was fitted on."
            )
        if done.any():
            self.step_reward.reset(done)
        self._predicted += paid
        return paid

    def state(self) -> dict[str, Any]:
        """All that a later `set_state` needs to continue exactly."""
        scaling = {} if self.reward_scaling is None else self.reward_scaling.state()
        state = {
            "world": self.world.state(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "reward_scaling": scaling,
        }
        if self.step_reward is not None and self._slots is not None:
            state |= {
                "step_reward": self.step_reward.state(),
                "predicted": self._predicted.copy(),
                "slots": self._slots.vectors.cpu().numpy().copy(),
                "valid": self._slots.valid.cpu().numpy().copy(),
            }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        self.world.set_state(state["world"])
        self._returns = np.array(state["returns"])
        self._lengths = np.array(state["lengths"])
        if self.reward_scaling is not None:
            self.reward_scaling.set_state(state["reward_scaling"])
        if self.step_reward is not None:
            self.step_reward.set_state(state["step_reward"])
            self._predicted = np.array(state["predicted"])
            device = self.observer.device
            slots, valid = torch.tensor(state["slots"], device=device), torch.tensor(state["valid"], device=device)
            self._slots = Slots(slots, None, valid)

    def close(self) -> None:
        self.world.close()

    # The environments are not separate objects, so what Stable-Baselines3 asks of single ones has one answer for all.

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None] * len(list(self._get_indices(indices)))
        raise AttributeError(f"environments of a {type(self.world).__name__} have no attribute {attr_name!r}.")

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"environments of a {type(self.world).__name__} have no attribute {attr_name!r} to set.")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        raise AttributeError(f"environments of a {type(self.world).__name__} have no method {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def random_play_statistics(
    world: World, encoder: ObjectEncoder, frames: int = 2048, seed: int = 0, by_place: bool = False
) -> Standardisation:
    """Of the features of at least `frames` frames under uniformly random actions; the world is left as it was found."""
    before = world.state()
    generator = np.random.default_rng(seed)
    observer = Observer(encoder, Standardisation.identity(encoder.dim))
    seen = []
    world.reset()
    for _ in range(-(-frames // world.num_envs)):
        seen.append(observer.slots(world.observe(encoder.requires)))
        outcome = world.step(generator.integers(0, world.num_actions, world.num_envs))
        finished = np.flatnonzero(outcome.terminated | outcome.truncated)
        if len(finished):
            world.reset(finished)
    world.set_state(before)
    vectors = torch.cat([slots.vectors for slots in seen]).float().cpu().numpy()
    return Standardisation.of(vectors, torch.cat([slots.valid for slots in seen]).cpu().numpy(), by_place)

"""What an agent is paid by, as a config names it: built when the encoder and the learner's discount are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO

from ocl.describe import class_path, digest, fingerprint
from ocl.representations import ObjectEncoder
from ocl.shapes import Slots
from rl_probes.closing_loop.predictors import JudgedByProgress, OncePerState, WithBonus
from rl_probes.rewards.checkpoint import load_head
from rl_probes.rewards.function import RewardFunction, as_reward_fn
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.return_scale import ReturnScale
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping


class RewardLearner(ABC):
    """Changes a reward between a rollout of PPO and the update on it."""

    @abstractmethod
    def step(self, model: PPO) -> dict[str, float]:
        """Learn from the rollout that `model` has just collected. Figures worth logging, the same ones every time."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `set_state` needs to continue exactly, beside the reward's own state."""

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None: ...


class RewardScheme(ABC):
    """Makes the reward of a run. Whatever is random in its making comes from torch's global generator, and nothing
    afterwards."""

    @abstractmethod
    def predictor(self, encoder: ObjectEncoder, gamma: float) -> RewardPredictor:
        """A fresh predictor for `encoder`'s slots and a learner that discounts by `gamma`."""

    def build(self, encoder: ObjectEncoder, gamma: float) -> RewardFunction:
        """The same as a function of slots, where the encoder computes.

        Raises:
            ValueError: a head that was fitted on another encoder's slots, or a goal that is missing.
        """
        return as_reward_fn(self.predictor(encoder, gamma).to(_device_of(encoder)), encoder)

    def learner(self, reward: RewardFunction) -> RewardLearner | None:
        """What changes `reward`, which `build` made, once per rollout; None where nothing does."""
        return None

    def describe(self) -> dict[str, Any]:
        """What decides the reward, for manifests; a run continues only with an equal one."""
        arguments = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"class": class_path(self)} | arguments


class _FromHead(RewardScheme):
    """On a progress head that `rl-probes reward` saved."""

    def __init__(self, head: Path | str) -> None:
        self._head = load_head(DeepSetProgress, head)
        self.head = fingerprint(self._head)


class PredictedReward(_FromHead):
    """In the place of the environment's reward, `JudgedByProgress` of a saved progress head.

    Args:
        head: its folder.
        gold_at: predicted progress that counts as success where an episode ended.

    Raises:
        FileNotFoundError: no head there.
        ValueError: files that were altered.
    """

    def __init__(self, head: Path | str, gold_at: float = 0.95) -> None:
        super().__init__(head)
        self.gold_at = gold_at

    def predictor(self, encoder: ObjectEncoder, gamma: float) -> RewardPredictor:
        return JudgedByProgress(OncePerState(self._head), gamma, self.gold_at)


class ShapedReward(_FromHead):
    """The environment's reward, shaped by a saved progress head as its potential.

    Args:
        head: its folder.

    Raises:
        FileNotFoundError: no head there.
        ValueError: files that were altered.
    """

    def predictor(self, encoder: ObjectEncoder, gamma: float) -> RewardPredictor:
        return PotentialShaping(OncePerState(self._head), gamma)


class NoveltyBonus(RewardScheme):
    """The environment's reward + coefficient * random distillation of the slots, divided by the running deviation of
    its discounted sums (`ReturnScale`).

    Args:
        coefficient: of the bonus; ours, to be tuned for a task.
        sigma: noise of the distilled target: 1 for RDD, 0 for RND; see `RandomDistillation`.
        width, outputs: of target and learner.
        batch: states per step of the learner.
    """

    def __init__(
        self, coefficient: float = 1.0, sigma: float = 1.0, width: int = 128, outputs: int = 64, batch: int = 256
    ) -> None:
        self.coefficient, self.sigma, self.width, self.outputs = coefficient, sigma, width, outputs
        self.batch = batch

    def predictor(self, encoder: ObjectEncoder, gamma: float) -> RewardPredictor:
        target, learner = (SetNetwork(encoder.dim, self.width, self.outputs) for _ in range(2))
        bonus = RandomDistillation(encoder.dim, target, learner, self.sigma, batch=self.batch)
        return WithBonus(ReturnScale(bonus, gamma), self.coefficient)


class GivenReward(RewardScheme):
    """Any predictor, as it is, in the place of the environment's reward; each run learns on a copy of its own.

    Args:
        reward: the predictor; one that depends on the discount must have been given the learner's own.
        goal: slots (1 G D) of one goal for all environments, for predictors that need one.
    """

    def __init__(self, reward: RewardPredictor, goal: Slots | None = None) -> None:
        self._reward, self._goal = deepcopy(reward), goal
        self.reward = fingerprint(reward)
        self.goal = None if goal is None else [digest(goal.vectors), digest(goal.valid)]

    def predictor(self, encoder: ObjectEncoder, gamma: float) -> RewardPredictor:
        return deepcopy(self._reward)

    def build(self, encoder: ObjectEncoder, gamma: float) -> RewardFunction:
        device, goal = _device_of(encoder), self._goal
        if goal is not None:
            goal = Slots(goal.vectors.to(device), None, goal.valid.to(device))
        return as_reward_fn(self.predictor(encoder, gamma).to(device), encoder, goal)


def _device_of(encoder: ObjectEncoder) -> torch.device:
    return next((tensor.device for tensor in encoder.state_dict().values()), torch.device("cpu"))

"""Blended rewards whose weights learn from the policy's own gradients, once per rollout."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3 import PPO
from torch import Tensor

from ocl.representations import ObjectEncoder
from rl_probes.closing_loop.schemes import RewardLearner, RewardScheme
from rl_probes.rewards.aligned_blend import AlignedBlend, policy_gradients
from rl_probes.rewards.function import RewardFunction


class BlendedReward(RewardScheme):
    """The environment's reward blended with designed ones by `AlignedBlend`; `BlendLearner` moves the weights.

    Args:
        designed: what each designed reward would pay in the place of the environment's.
        weights: of the environment's reward and of the designed ones, to begin with.
        rate: of the weights; 0 leaves them alone. Ours, to be tuned: gradients have no scale of their own.

    Raises:
        ValueError: no designed reward, another number of weights than one more than those, or a rate below zero.
    """

    def __init__(self, designed: list[RewardScheme], weights: list[float], rate: float) -> None:
        if not designed or len(weights) != 1 + len(designed):
            raise ValueError(f"a blend needs designed rewards and a weight for each and the environment's, got "
                             f"{len(designed)} rewards and {len(weights)} weights.")  # fmt: skip
        if not 0.0 <= rate < float("inf"):
            raise ValueError(f"the rate of a blend must be finite and not negative, got {rate}.")
        self._designed = list(designed)
        self.designed = [scheme.describe() for scheme in designed]
        self.weights, self.rate = list(weights), rate

    def predictor(self, encoder: ObjectEncoder, gamma: float) -> AlignedBlend:
        return AlignedBlend([scheme.predictor(encoder, gamma) for scheme in self._designed], self.weights)

    def learner(self, reward: RewardFunction) -> BlendLearner:
        return BlendLearner(reward, self.rate)


class BlendLearner(RewardLearner):
    """Moves the weights of an `AlignedBlend` between PPO's rollouts and its updates.

    A rollout gives the policy gradient of each reward at the policy that played it. The task's is the fresh one that
    `AlignedBlend.align` asks for, of the policy after the update before; what the rewards themselves taught then was
    kept from the rollout before. PPO's update (clipped, several epochs of Adam) is not the single plain step that the
    derivative is exact for: it only shares its direction at first order.

    The gradients are those of discounted returns to go, cut where an episode or the rollout ends, less the mean of the
    other environments' at the same step.
    """

    def __init__(self, reward: RewardFunction, rate: float) -> None:
        if not isinstance(reward.predictor, AlignedBlend):
            raise ValueError(f"only an AlignedBlend has weights to learn, got {type(reward.predictor).__name__}.")
        self.blend, self.rate = reward.predictor, rate
        self.blend.keep()
        self._before: Tensor | None = None  # (1+n P) of the rollout before

    def step(self, model: PPO) -> dict[str, float]:
        buffer = model.rollout_buffer
        device = model.device
        components = self.blend.taken().to(device)  # (T 1+n B)
        starts = torch.as_tensor(model._last_episode_starts, device=device)
        following = torch.as_tensor(buffer.episode_starts[1:], device=device)
        ended = torch.cat([following, starts[None].to(following)]).bool()  # (T B)
        advantages = without_others(returns_to_go(components, ended, model.gamma))
        observations = torch.as_tensor(buffer.observations, device=device).flatten(0, 1)
        actions = torch.as_tensor(buffer.actions, device=device).flatten(0, 1).flatten()
        _, log_probability, _ = model.policy.evaluate_actions(observations, actions)
        gradients = policy_gradients(log_probability, advantages.flatten(1), model.policy.parameters()).cpu()
        if self._before is not None:
            self.blend.align(self._before, gradients[0], self.rate)
        self._before = gradients
        return {f"blend_weight_{index}": weight for index, weight in enumerate(self.blend.weights.tolist())}

    def state(self) -> dict[str, Any]:
        return {"before": self._before}

    def set_state(self, state: dict[str, Any]) -> None:
        self._before = None if state["before"] is None else torch.tensor(state["before"])


def returns_to_go(rewards: Tensor, ended: Tensor, gamma: float) -> Tensor:
    """rewards (T n B), ended (T B): the episode ended with this step -> discounted sums to its end (n T B)."""
    total = torch.zeros_like(rewards[0])
    sums: list[Tensor] = []
    for reward, over in zip(rewards.flip(0), ended.flip(0), strict=True):
        total = reward + gamma * total.masked_fill(over, 0.0)
        sums.append(total)
    return torch.stack(sums[::-1], 1)


def without_others(returns: Tensor) -> Tensor:
    """returns (n T B) less the mean over the other environments, which no action of an environment can change."""
    count = returns.shape[-1]
    if count == 1:
        return returns
    return (returns - returns.mean(-1, keepdim=True)) * (count / (count - 1))

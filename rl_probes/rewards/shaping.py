"""Potential-based reward shaping (Ng, Harada and Russell, 1999)."""

from __future__ import annotations

from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


def shape(reward: Tensor, potential: Tensor, next_potential: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma * (1 - terminated) * Phi(s') - Phi(s), each (B,).

    The potential counts as zero where the task *terminated*. A time limit truncates and is no termination: zeroing
    there too would make the optimal policy depend on Phi. `gamma` must be the learner's own discount.
    """
    return reward + gamma * next_potential.masked_fill(terminated, 0.0) - potential


class PotentialShaping(ComposedPredictor):
    """The environment's reward shaped by a learned or designed potential; leaves the optimal policy unchanged.

    potential: any predictor of kind "potential".
    gamma: the discount of the learner that receives the reward.

    Attribution is leave-one-out over the slots of s; those of s' carry no identity that would let theirs be added.

    Raises:
        ValueError: a predictor that is no potential, or gamma outside (0, 1].
    """

    kind = "reward"
    state_dependence = "transition"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, potential: RewardPredictor, gamma: float) -> None:
        super().__init__(potential)
        if potential.kind != "potential":
            raise ValueError(f"shaping needs a potential, got {type(potential).__name__} of kind {potential.kind!r}.")
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma must be in (0, 1], got {gamma}.")
        self.gamma = gamma
        self.requires = potential.requires | {"next_slots", "rewards", "terminated"}

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.rewards is not None
        assert transition.terminated is not None
        (potential,) = self.components()
        now, then = potential(transition), potential(transition.advanced())
        reward = shape(transition.rewards.float(), now.reward, then.reward, transition.terminated, self.gamma)
        extras = {"potential": now.reward, "next_potential": then.reward}
        return RewardOutput(reward=reward, progress=then.progress, extras=extras)

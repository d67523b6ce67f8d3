"""A bonus in units of what an episode of it adds up to (Burda et al., 2019, section 2.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class ReturnScale(ComposedPredictor):
    """A bonus divided by the running deviation of its discounted sums R <- gamma * R + bonus, one per environment.

    The normalisation that random network distillation is published with, in contrast to `RunningScale`, which divides
    by the deviation of single rewards. Sums run on over the ends of episodes: what was novel once is not novel again in
    the next one. Only the scale changes, not the shift. Its moments forget nothing, as published. Until two sums that
    differ were observed the bonus stays as it is.

    gamma: the discount of the learner that receives the reward.

    Raises:
        ValueError: gamma outside [0, 1).
    """

    def __init__(self, part: RewardPredictor, gamma: float, epsilon: float = 1e-8) -> None:
        super().__init__(part)
        if not 0.0 <= gamma < 1.0:
            raise ValueError(f"gamma must be in [0, 1), or discounted sums never settle, got {gamma}.")
        self.kind, self.state_dependence = part.kind, part.state_dependence
        self.bounds = (
            float("-inf") if part.bounds[0] < 0 else 0.0,
            float("inf") if part.bounds[1] > 0 else 0.0,
        )
        self.stateful = True
        self.gamma, self.epsilon = gamma, epsilon
        self.moments = RunningMoments(())
        self._sums: Tensor | None = None  # (B)
        self._paid: tuple[Tensor, Tensor] | None = None  # the slots last asked about, and their bonus (B)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        (part,) = self.components()
        output: RewardOutput = part(transition)
        self._paid = (transition.slots, output.reward)
        return RewardOutput(reward=output.reward / (self.moments.std() + self.epsilon), progress=output.progress)

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        """Raises ValueError for another number of environments than before."""
        (part,) = self.components()
        if self._paid is not None and self._paid[0] is transition.slots:
            bonus = self._paid[1]  # it was asked for before it is observed: not computed again
        else:
            bonus = part(transition).reward
        self._paid = None  # the part learns from what it observes
        if self._sums is not None and len(self._sums) != len(bonus):
            raise ValueError(f"ReturnScale remembers {len(self._sums)} environments, got {len(bonus)}.")
        self._sums = bonus if self._sums is None else self.gamma * self._sums + bonus
        self.moments.add(self._sums)
        return super().observe(transition) | {"return_scale": float(self.moments.std())}

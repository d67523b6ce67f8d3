"""Rewards made of other rewards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.transition import RewardOutput, SlotTransition


def key_reward(components: Tensor) -> Tensor:
    """Components (n B) in [-1, 1] -> (B): the geometric mean of their sizes, positive only where none is negative.

    The combination of Lucy-SKG (2023). Unlike a mean it pays only where all components do, and two that are negative
    do not cancel: (0.9, 0.1) gives 0.3, (-0.5, -0.5) gives -0.5.
    """
    size = components.abs().log().mean(0).exp()  # zero where one component is: log 0 = -inf
    return torch.where((components >= 0).all(0), size, -size)


class _Combination(ComposedPredictor):
    """Several predictors read on the same transition. Potentials of one state combine to a potential; a potential
    beside anything else is read at s' and counts as a reward there."""

    def __init__(self, parts: Sequence[RewardPredictor]) -> None:
        super().__init__(*parts)
        kinds = {part.kind for part in parts}
        self.kind = kinds.pop() if len(kinds) == 1 else "reward"
        dependences = {part.state_dependence for part in parts}
        self.state_dependence = dependences.pop() if len(dependences) == 1 else "transition"
        if self.state_dependence == "transition" and any(part.state_dependence == "state" for part in parts):
            self.requires |= {"next_slots"}

    def rewards(self, transition: SlotTransition) -> Tensor:
        """(n B)"""
        return torch.stack([part(self.read_by(part, transition)).reward for part in self.components()])


class WeightedSum(_Combination):
    """Sum over i of weight_i * r_i. Extras: "components" (n B), unweighted.

    Raises:
        ValueError: as many weights as predictors are needed, and they must be finite.
    """

    def __init__(self, parts: Sequence[RewardPredictor], weights: Sequence[float]) -> None:
        super().__init__(parts)
        if len(weights) != len(parts) or not torch.tensor(weights).isfinite().all():
            raise ValueError(f"{len(parts)} predictors need as many finite weights, got {list(weights)}.")
        self.weights: Tensor
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))
        ends = [sorted(w * end if w else 0.0 for end in part.bounds) for w, part in zip(weights, parts, strict=True)]
        # float32 sums may pass the exact bound by their last digit
        self.bounds = (sum(low for low, _ in ends), sum(high for _, high in ends))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        components = self.rewards(transition)
        reward = (self.weights @ components).clamp(*self.bounds)
        return RewardOutput(reward=reward, extras={"components": components})


class KeyReward(_Combination):
    """`key_reward` of predictors bounded in [-1, 1]. Of potentials it is one; of rewards, shaping by them is not the
    sum of shapings. Extras: "components" (n B).

    Raises:
        ValueError: a predictor whose rewards can leave [-1, 1].
    """

    def __init__(self, parts: Sequence[RewardPredictor]) -> None:
        super().__init__(parts)
        for part in parts:
            if part.bounds[0] < -1 or part.bounds[1] > 1:
                raise ValueError(f"a key reward needs rewards in [-1, 1], those of {type(part).__name__} lie in "
                                 f"{part.bounds}.")  # fmt: skip
        signed = any(part.bounds[0] < 0 for part in parts)
        self.bounds = (-1.0 if signed else 0.0, 1.0)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        components = self.rewards(transition)
        return RewardOutput(reward=key_reward(components), extras={"components": components})


class RunningScale(ComposedPredictor):
    """A reward divided by the standard deviation of the rewards observed so far; as it is before two were observed.

    Only the scale changes, not the shift: what a reward of zero means must not move during training. Its moments are
    buffers, so saving and loading keeps them.
    """

    def __init__(self, part: RewardPredictor, epsilon: float = 1e-8) -> None:
        super().__init__(part)
        self.kind, self.state_dependence = part.kind, part.state_dependence
        self.bounds = (
            float("-inf") if part.bounds[0] < 0 else 0.0,
            float("inf") if part.bounds[1] > 0 else 0.0,
        )
        self.moments = RunningMoments(())
        self.epsilon = epsilon

    def predict(self, transition: SlotTransition) -> RewardOutput:
        (part,) = self.components()
        output: RewardOutput = part(transition)
        return RewardOutput(reward=output.reward / (self.moments.std() + self.epsilon), progress=output.progress)

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        (part,) = self.components()
        self.moments.add(part(transition).reward)
        return super().observe(transition) | {"reward_scale": float(self.moments.std())}


class BoundedCentered(ComposedPredictor):
    """PAR (2025): the mean over reference rewards r_i of sigmoid(slope * (r - r_i)), in (0, 1).

    One half at a single reference, and what lies far above all of them pays little more than what lies well above:
    there is less to gain from hacking the reward.

    reference: (R) rewards of the same predictor on reference states, such as those of the policy before training.

    Raises:
        ValueError: no reference, one that is not finite, or a slope that is not positive.
    """

    bounds = (0.0, 1.0)

    def __init__(self, part: RewardPredictor, reference: Tensor, slope: float = 1.0) -> None:
        super().__init__(part)
        if reference.ndim != 1 or not len(reference) or not reference.isfinite().all() or not slope > 0:
            raise ValueError(f"PAR needs finite reference rewards (R >= 1) and a positive slope, got "
                             f"{tuple(reference.shape)} and {slope}.")  # fmt: skip
        self.kind, self.state_dependence = part.kind, part.state_dependence
        self.slope = slope
        self.reference: Tensor
        self.register_buffer("reference", reference.float())

    def predict(self, transition: SlotTransition) -> RewardOutput:
        (part,) = self.components()
        output: RewardOutput = part(transition)
        reward = torch.sigmoid(self.slope * (output.reward[:, None] - self.reference)).mean(1)
        return RewardOutput(reward=reward, progress=output.progress)

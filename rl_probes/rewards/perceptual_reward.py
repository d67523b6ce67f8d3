"""A potential made of a few demonstrations alone: which of their steps a state looks like (Unsupervised Perceptual
Rewards, 2016)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from rl_probes.rewards.perceptual_steps import feature_scores, find_steps
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots

MIN_DEVIATION = 0.1
"""Of a feature within a step, in units of its deviation over all demonstrations: features that stand still in a few
demonstrations would otherwise reject every state that differs from them by a rounding error. Ours."""


def prototype_statistics(slots: Tensor, valid: Tensor, prototypes: Tensor, spread: Tensor) -> Tensor:
    """Features of a set that do not depend on its order: slots (B K D), valid (B K), prototypes (P D), spread () the
    squared distance that counts as far -> (B P*(D+2)).

    Every slot is shared out among the prototypes, a = softmax(-distance^2 / spread). Of each prototype: the largest
    share, the sum of shares (how many slots are there), and the sum of shares times the way from prototype to slot.
    """
    distance = torch.cdist(slots, prototypes).square()  # (B K P)
    share = (-distance / spread).softmax(2) * valid[..., None]
    count = share.sum(1)  # (B P)
    ways = share.mT @ slots - count[..., None] * prototypes  # (B P D), without a tensor (B K P D)
    return torch.cat([share.amax(1), count, ways.flatten(1)], 1)


class PerceptualSteps(SlotHead):
    """The mean of R_i over steps i >= 2, weighted by 2^i, with R_i = exp(-1/(2S) * sum of ((f - mu_i) / sigma_i)^2).

    Each step has S features f, means mu_i and deviations sigma_i of its own. The first step is where every episode
    begins and pays nothing. `fit` finds steps, features and moments, without a gradient.

    On slots instead of a feature map the features are `prototype_statistics` about P prototypes, cluster centres of the
    demonstrations' slots, because slot k of one frame is not slot k of the next.

    What the source prints, the mean of (f - mu)^2 / sigma, is neither negative nor squared in sigma; a Gaussian's is
    both, and it is that one here, exponentiated into (0, 1]. The weights 2^i come from its appendix, second-hand.
    Extras: "steps" (B n), R_i of every step with the first.

    Raises:
        ValueError: fewer than two steps, or no feature or prototype.
    """

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def __init__(self, dim: int, num_steps: int, num_prototypes: int = 8, num_features: int = 32) -> None:
        super().__init__(dim=dim, num_steps=num_steps, num_prototypes=num_prototypes, num_features=num_features)
        count = num_prototypes * (dim + 2)
        if num_steps < 2 or num_prototypes < 1 or not 1 <= num_features <= count:
            raise ValueError(f"perceptual steps need two steps, one prototype and 1 to {count} features, got "
                             f"{num_steps}, {num_prototypes} and {num_features}.")  # fmt: skip
        self.prototypes: Tensor
        self.spread: Tensor
        self.chosen: Tensor
        self.centre: Tensor
        self.deviation: Tensor
        self.register_buffer("prototypes", torch.zeros(num_prototypes, dim))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("chosen", torch.zeros(num_steps, num_features, dtype=torch.long))
        self.register_buffer("centre", torch.zeros(num_steps, num_features))
        self.register_buffer("deviation", torch.ones(num_steps, num_features))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        features = self.features(transition.slots, valid_slots(transition))[:, self.chosen]  # (B n S)
        steps = torch.exp(-0.5 * ((features - self.centre) / self.deviation).square().mean(2))  # (B n)
        weights = 2.0 ** torch.arange(1, steps.shape[1], device=steps.device)
        reward = (steps[:, 1:] @ weights / weights.sum()).clamp(max=1.0)
        return RewardOutput(reward=reward, extras={"steps": steps})

    def features(self, slots: Tensor, valid: Tensor) -> Tensor:
        """(B K D), (B K) -> (B F)."""
        return prototype_statistics(self.standardised(slots, valid), valid, self.prototypes, self.spread)

    @torch.no_grad()
    def fit(
        self, demonstrations: Sequence[tuple[Tensor, Tensor]], min_frames: int = 3, alpha: float = 5.0, seed: int = 0
    ) -> list[list[int]]:
        """Learn from demonstrations, each the slots (T K D) and mask (T K) of its frames; all do the steps in the same
        order. A function of its arguments alone.

        Returns:
            Of each demonstration the ends of its steps, as `find_steps` gives them.

        Raises:
            ValueError: no demonstration, one of another width or too short for its steps, or fewer slots than
                prototypes.
        """
        frames = [SlotTransition(slots, valid) for slots, valid in demonstrations]
        if not frames or any(part.slots.shape[2] != self.dim for part in frames):
            raise ValueError(f"perceptual steps need at least one demonstration, all of slots of width {self.dim}, got "
                             f"widths {[part.slots.shape[2] for part in frames]}.")  # fmt: skip
        objects = torch.cat([part.slots[valid_slots(part)] for part in frames])  # (N D)
        if len(objects) < len(self.prototypes) or not objects.isfinite().all():
            raise ValueError(f"{len(self.prototypes)} prototypes need as many finite slots, got {len(objects)}.")
        std = objects.std(0, correction=0)
        self.mean.copy_(objects.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))
        objects = (objects - self.mean) / self.std
        clusters = KMeans(len(self.prototypes), n_init=10, random_state=seed).fit(objects.cpu().numpy())
        self.prototypes.copy_(torch.from_numpy(clusters.cluster_centers_))
        # Twice the mean squared distance to the nearest centre: shares blend where clusters meet.
        self.spread.fill_(max(2.0 * float(clusters.inertia_) / len(objects), 1e-6))

        tables = [self.features(part.slots, valid_slots(part)) for part in frames]
        table = torch.cat(tables).double().cpu().numpy()
        scale = np.where(table.std(0) > 0, table.std(0), 1.0)
        standardised = (table - table.mean(0)) / scale
        steps = len(self.centre)
        parts = np.split(standardised, np.cumsum([len(part) for part in frames])[:-1])
        ends = [find_steps(part, steps, min_frames) for part in parts]
        label = np.concatenate([np.repeat(np.arange(steps), np.diff([0, *marks])) for marks in ends])
        for step in range(steps):
            chosen = np.argsort(-feature_scores(standardised, label == step, alpha), kind="stable")
            chosen = chosen[: self.chosen.shape[1]]
            own = table[label == step][:, chosen]
            self.chosen[step] = torch.from_numpy(chosen)
            self.centre[step] = torch.from_numpy(own.mean(0))
            self.deviation[step] = torch.from_numpy(np.maximum(own.std(0), MIN_DEVIATION * scale[chosen]))
        return ends

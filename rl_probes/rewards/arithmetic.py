"""What was taken out of a scene, by subtracting sets (Grasp2Vec, 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ocl.matching import optimal_assignment
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class ObjectArithmetic(RewardPredictor):
    """Cosine of phi(s) - phi(s') and phi(goal), where phi(scene) is the sum of an embedding over its valid slots.

    A sum, not the source's average over a feature map: taking one object away subtracts exactly its embedding. The goal
    is the object that is to be taken; several count as their sum with `goal_weight`.

    embedding: maps slots (... D) to (... E), each slot on its own; trained elsewhere, or `nn.Identity()`.
    tolerance: of the summed sizes of both scenes' embeddings: a difference below it is no change, and pays 0. The
               source has none; without it the direction of rounding errors would be rewarded.

    Extras: "removed" (B E), phi(s) - phi(s').

    Raises:
        ValueError: a tolerance that is not positive.
    """

    requires = frozenset({"next_slots", "goal_slots"})
    kind = "reward"
    state_dependence = "transition"
    bounds = (-1.0, 1.0)

    def __init__(self, embedding: nn.Module, tolerance: float = 1e-4) -> None:
        super().__init__()
        if not tolerance > 0.0:
            raise ValueError(f"tolerance must be positive, got {tolerance}.")
        self.embedding, self.tolerance = embedding, tolerance

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        assert transition.next_slots is not None
        assert transition.next_valid is not None
        assert transition.goal_slots is not None
        assert transition.goal_weight is not None
        before = self._embedded(transition.slots, transition.valid)
        after = self._embedded(transition.next_slots, transition.next_valid)
        removed = before.sum(1) - after.sum(1)
        goal = (transition.goal_weight[..., None] * self.embedding(transition.goal_slots)).sum(1)
        size = before.norm(dim=2).sum(1) + after.norm(dim=2).sum(1)
        changed = removed.norm(dim=1) > self.tolerance * size
        reward = torch.where(changed, cosine_similarity(removed, goal), 0.0).clamp(-1.0, 1.0)
        return RewardOutput(reward=reward, extras={"removed": removed})

    def _embedded(self, slots: Tensor, valid: Tensor) -> Tensor:
        """(B K E), zero for padding."""
        embedded: Tensor = self.embedding(slots)
        return embedded.masked_fill(~valid[..., None], 0.0)


def removed_slots(transition: SlotTransition) -> Tensor:
    """(B K) bool: slots of s that stay alone when s and s' are matched one to one at the least squared distance.

    Raises:
        ValueError: no next_slots.
    """
    if transition.next_slots is None:
        raise ValueError("removed_slots needs next_slots, which this transition lacks.")
    assert transition.valid is not None
    cost = torch.cdist(transition.slots, transition.next_slots).square()
    return transition.valid & ~optimal_assignment(cost, transition.valid, transition.next_valid).matched

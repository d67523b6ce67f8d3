"""How much of a goal, given as slots, the current slots already satisfy: no training needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ocl.matching import optimal_assignment
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class Columns(nn.Module):
    """Picks features by index: (... D) -> (... len(columns))."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.index: Tensor
        self.register_buffer("index", torch.tensor(list(columns), dtype=torch.long))

    def forward(self, slots: Tensor) -> Tensor:
        return slots[..., self.index]


class SlotGoalSimilarity(RewardPredictor):
    """Sum over goal slots g of w_g * d(g, k) * a(g, k) at the slot k that one-to-one assignment gives to g.

    The form of StateFactory's goal reward on slots instead of text: an identity gate d (is this the object?) times the
    match a of its attributes (is it as the goal wants it?), the latter averaged over attributes. Both are cosines
    clipped at zero before they are multiplied, or two mismatches would look like a match. Goal weights sum to one.
    One-to-one, because a maximum per goal slot lets one object satisfy two goals (`HardMaxGoalSimilarity`).
    Attribution is additive: each slot gets what the goals assigned to it contribute.

    identity:   maps slots (... D) to the part that says which object it is, such as `Columns([...])` or a trained
                linear map; constant 1 instead of a gate where None.
    attributes: maps slots to the parts to be compared, one map each.

    A state whose goal slots are all padding or weigh nothing gets 0.

    Raises:
        ValueError: no attribute; on a call, no goal_slots.
    """

    requires = frozenset({"goal_slots"})
    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)
    attribution_kind = "additive"

    def __init__(self, attributes: Sequence[nn.Module], identity: nn.Module | None = None) -> None:
        super().__init__()
        if not attributes:
            raise ValueError("goal similarity needs at least one attribute to compare, got none.")
        self.identity = identity
        self.attributes = nn.ModuleList(attributes)

    def similarity(self, goal: Tensor, slots: Tensor) -> Tensor:
        """goal (B G D), slots (B K D) -> (B G K) in [0, 1]."""
        match = torch.stack([_cosine(attribute(goal), attribute(slots)) for attribute in self.attributes]).mean(0)
        return match if self.identity is None else _cosine(self.identity(goal), self.identity(slots)) * match

    def assign(self, similarity: Tensor, weight: Tensor, goal_valid: Tensor, valid: Tensor) -> Tensor:
        """Similarity (B G K), weight (B G), goal_valid (B G), valid (B K) -> the share (B G K) of each slot in a goal,
        which sums to one over K, or to zero where a goal gets no slot.

        Maximises the weighted sum, so a heavy goal wins a slot that two want, and a weightless one takes none away.
        """
        chosen, matched = optimal_assignment(-weight[..., None] * similarity, goal_valid, valid)
        return _one_hot(chosen, matched, similarity)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.goal_slots is not None
        assert transition.goal_valid is not None
        assert transition.goal_weight is not None
        assert transition.valid is not None
        weight = transition.goal_weight / transition.goal_weight.sum(1, keepdim=True).clamp(min=1e-12)  # (B G)
        similarity = self.similarity(transition.goal_slots, transition.slots)  # (B G K)
        share = self.assign(similarity, weight, transition.goal_valid, transition.valid)  # (B G K)
        attribution = (share * weight[..., None] * similarity).sum(1)  # (B K)
        reward = attribution.sum(1).clamp(max=1.0)
        best, matched = share.argmax(2), share.any(2)
        extras = {"matched_slot": best.masked_fill(~matched, -1)}
        return RewardOutput(reward=reward, progress=reward, attribution=attribution, extras=extras)


class HardMaxGoalSimilarity(SlotGoalSimilarity):
    """Every goal slot takes its most similar slot, whoever else takes it; one slot may count for several goals."""

    def assign(self, similarity: Tensor, weight: Tensor, goal_valid: Tensor, valid: Tensor) -> Tensor:
        best = similarity.masked_fill(~valid[:, None], -1.0).argmax(2)
        return _one_hot(best, goal_valid & valid.any(1, keepdim=True), similarity)


class SoftGoalSimilarity(SlotGoalSimilarity):
    """Every goal slot takes slots in proportion to exp(similarity / temperature): the differentiable form.

    Between the mean over slots (high temperature) and `HardMaxGoalSimilarity` (low). A reached goal scores below one:
    the other slots keep their share.

    Raises:
        ValueError: a temperature that is not positive.
    """

    def __init__(
        self, attributes: Sequence[nn.Module], identity: nn.Module | None = None, temperature: float = 0.05
    ) -> None:
        super().__init__(attributes, identity)
        if not temperature > 0:
            raise ValueError(f"the temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def assign(self, similarity: Tensor, weight: Tensor, goal_valid: Tensor, valid: Tensor) -> Tensor:
        lowest = torch.finfo(similarity.dtype).min  # finite: a state without any valid slot must not become NaN
        share = (similarity / self.temperature).masked_fill(~valid[:, None], lowest).softmax(2)
        return share * (goal_valid[..., None] & valid[:, None])


def _one_hot(chosen: Tensor, matched: Tensor, similarity: Tensor) -> Tensor:
    """Each goal's slot, chosen (B G) where matched (B G), as shares shaped like similarity (B G K)."""
    return torch.zeros_like(similarity).scatter(2, chosen[..., None], matched[..., None].to(similarity.dtype))


def _cosine(goal: Tensor, slots: Tensor) -> Tensor:
    """goal (B G E), slots (B K E) -> (B G K), clipped to [0, 1]."""
    return (normalize(goal, dim=-1) @ normalize(slots, dim=-1).mT).clamp(0.0, 1.0)

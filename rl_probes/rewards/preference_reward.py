"""A reward learned from preferences between fragments, as an ensemble that knows where it is unsure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_probes.rewards.preferences import fragment_return, most_uncertain, preference_loss
from rl_probes.rewards.set_embedding import SetEmbedding
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class PreferenceReward(SlotHead):
    """The mean of E independently initialised rewards of a single state (Christiano et al., 2017).

    Extras: "members" (E B).

    Raises:
        ValueError: no member.
    """

    kind = "reward"
    state_dependence = "state"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, dim: int, members: int = 3, width: int = 128) -> None:
        super().__init__(dim=dim, members=members, width=width)
        if members < 1:
            raise ValueError(f"an ensemble has at least one member, got {members}.")
        self.members = nn.ModuleList(_Member(dim, width) for _ in range(members))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        slots = self.standardised(transition.slots, transition.valid)
        members = torch.stack([member(slots, transition.valid) for member in self.members])  # (E B)
        return RewardOutput(reward=members.mean(0), extras={"members": members})

    def differences(
        self, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, gamma: float = 1.0
    ) -> Tensor:
        """Fragments (n T K D) with masks (n T K) -> R_1 - R_2 by every member (E n).

        Raises:
            ValueError: fragments of different lengths: their returns could not be told from a constant.
        """
        if first.shape != second.shape:
            raise ValueError(f"fragments must be alike, got {tuple(first.shape)} and {tuple(second.shape)}.")
        returns = [
            fragment_return(
                self(SlotTransition(slots.flatten(0, 1), valid.flatten(0, 1)))
                .extras["members"]
                .masked_fill(~valid.flatten(0, 1).any(1), self.neutral)
                .unflatten(1, valid.shape[:2]),
                gamma,
            )
            for slots, valid in ((first, first_valid), (second, second_valid))
        ]
        return returns[0] - returns[1]

    def loss(self, differences: Tensor, label: Tensor, noise: float = 0.1, scale_penalty: float = 1e-3) -> Tensor:
        """Bradley-Terry cross-entropy averaged over members: differences (E n), labels (n).

        `scale_penalty` times the mean squared difference holds the scale down, which preferences leave free where the
        judge never errs. Both defaults are ours.
        """
        fit = preference_loss(differences, label.expand_as(differences), noise)
        return fit + scale_penalty * differences.square().mean()

    @torch.no_grad()
    def ask(self, first: Tensor, first_valid: Tensor, second: Tensor, second_valid: Tensor, count: int) -> Tensor:
        """Indices (count) of the pairs whose label would tell most."""
        return most_uncertain(self.differences(first, first_valid, second, second_valid), count)


class _Member(nn.Module):
    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.embedding = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, slots: Tensor, valid: Tensor) -> Tensor:
        reward: Tensor = self.rho(self.embedding(slots, valid)).squeeze(1)
        return reward

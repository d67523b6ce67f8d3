"""Three views of progress from one set of slots: which of two states is ahead, how far one is, whether it is done."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from rl_probes.rewards.set_embedding import SetEmbedding, marked
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition, next_state, valid_slots


class ThreeHeads(SlotHead):
    """The mean of (contrast + 1) / 2, progress and success of a transition, each in [0, 1] (Large Reward Models, 2026).

    contrast: P(s' is ahead) - P(s' is behind), from both states together; swapping them flips its sign exactly.
    progress: of s' alone. success: the probability that s' completes the task.

    The source's heads are a language model asked every tenth step, here they are asked at every step; its blend with
    the environment's reward is `AlignedBlend` with weights that are left alone.
    Where s' holds no slot, reward and progress are 0. Extras: "contrast" (B).
    """

    requires = frozenset({"next_slots"})
    kind = "reward"
    state_dependence = "transition"
    bounds = (0.0, 1.0)

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.of_pair = SetEmbedding(dim + 1, width)
        self.of_state = SetEmbedding(dim, width)
        self.ahead = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2))
        self.done = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 2))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        order, progress, success = self._heads(transition)
        share = order.softmax(1)
        contrast = share[:, 2] - share[:, 0]
        reward = ((contrast + 1) / 2 + progress + success.sigmoid()) / 3
        lost = ~next_state(transition)[1].any(1)
        return RewardOutput(
            reward=reward.clamp(0.0, 1.0).masked_fill(lost, 0.0),
            progress=progress.masked_fill(lost, 0.0),
            success_logit=success,
            extras={"contrast": contrast},
        )

    def loss(self, transition: SlotTransition, order: Tensor, progress: Tensor, success: Tensor) -> Tensor:
        """Cross-entropy of the order, squared error of progress and cross-entropy of success, summed without weights
        (our choice).

        Args:
            transition: two states of an episode, any time apart.
            order: (B) int64, 1 where s' is ahead, -1 where it is behind, 0 where neither.
            progress: (B) of s', in [0, 1].
            success: (B) bool, s' completes the task.

        Raises:
            ValueError: an order that is none of the three, or progress outside [0, 1].
        """
        if not bool(((order >= -1) & (order <= 1)).all()) or order.is_floating_point():
            raise ValueError("order holds the integers -1, 0 and 1: s' is behind, as far, or ahead.")
        if not bool(((progress >= 0) & (progress <= 1)).all()):
            raise ValueError("progress must lie in [0, 1].")
        logits, found, completed = self._heads(transition)
        completion = binary_cross_entropy_with_logits(completed, success.float())
        return cross_entropy(logits, order.long() + 1) + mse_loss(found, progress) + completion

    def _heads(self, transition: SlotTransition) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of behind, level, ahead (B 3), progress (B) and the logit of success (B)."""
        valid, (next_slots, next_valid) = valid_slots(transition), next_state(transition)
        now, then = self.standardised(transition.slots, valid), self.standardised(next_slots, next_valid)
        present = torch.cat([valid, next_valid], 1)
        forwards, backwards = (
            self.ahead(self.of_pair(torch.cat([marked(now, -sign), marked(then, sign)], 1), present))
            for sign in (1, -1)
        )  # (B 2) each: the second is ahead, they are level
        level = forwards[:, 1] + backwards[:, 1]
        order = torch.stack([backwards[:, 0], level, forwards[:, 0]], 1)
        progress, success = self.done(self.of_state(then, next_valid)).unbind(1)
        return order, progress.sigmoid(), success

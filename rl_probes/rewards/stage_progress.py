"""Stage and progress within it, from the slots of one state (SARM, 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from rl_probes.rewards.set_embedding import SetEmbedding
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class StageProgress(SlotHead):
    """Progress P_k + share_k * tau, with stage k = argmax of a classifier and tau in (0, 1) regressed given k.

    SARM on a single state instead of a window of frames: no position in time reaches the head, so it cannot count.
    With one stage it is a progress head. `shares` (n) are `mean_shares` of the demonstrations, equal until set.
    Extras: "stage" (B) int64, "stage_logits" (B n), "tau" (B).

    Raises:
        ValueError: fewer than one stage.
    """

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def __init__(self, dim: int, num_stages: int, width: int = 128) -> None:
        super().__init__(dim=dim, num_stages=num_stages, width=width)
        if num_stages < 1:
            raise ValueError(f"a task has at least one stage, got {num_stages}.")
        self.embedding = SetEmbedding(dim, width)
        self.stage = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, num_stages))
        # One output per stage is the same as a stage embedding given to the last hidden layer, and gives all at once.
        self.tau = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, num_stages))
        self.shares: Tensor
        self.register_buffer("shares", torch.full((num_stages,), 1.0 / num_stages))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        logits, taus = self._heads(transition)
        stage = logits.argmax(1)  # (B)
        tau = taus.gather(1, stage[:, None]).squeeze(1)
        before = self.shares.cumsum(0) - self.shares
        progress = (before[stage] + self.shares[stage] * tau).clamp(0.0, 1.0)
        extras = {"stage": stage, "stage_logits": logits, "tau": tau}
        return RewardOutput(reward=progress, progress=progress, extras=extras)

    def loss(self, transition: SlotTransition, labels: Tensor) -> Tensor:
        """Cross-entropy of the stage plus squared error of tau at the true stage; labels y = k + tau (B).

        The sum is unweighted and tau is conditioned on the true stage: choices of ours, the source states neither.

        Raises:
            ValueError: a label outside [0, n].
        """
        stages = self.hyperparameters["num_stages"]
        if not bool(((labels >= 0) & (labels <= stages)).all()):
            raise ValueError(f"stage labels must lie in [0, {stages}].")
        stage = labels.long().clamp(max=stages - 1)  # y = n is the end of the last stage
        logits, taus = self._heads(transition)
        tau = taus.gather(1, stage[:, None]).squeeze(1)
        return cross_entropy(logits, stage) + mse_loss(tau, labels - stage)

    def _heads(self, transition: SlotTransition) -> tuple[Tensor, Tensor]:
        """Stage logits (B n) and tau given each stage (B n)."""
        assert transition.valid is not None
        slots = self.standardised(transition.slots, transition.valid)
        embedded = self.embedding(slots, transition.valid)
        return self.stage(embedded), self.tau(embedded).sigmoid()

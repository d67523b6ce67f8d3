"""Progress heads: how much of the task is done, regressed from the slots of one state."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class ProgressHead(RewardPredictor):
    """A potential in (0, 1): the logistic function of a score of the standardised slots of s.

    encoder_fingerprint: of the encoder whose slots it was fitted on; None before that. A head is meaningless on the
    slots of another encoder, so whoever gives it slots calls `check_encoder` first.
    """

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def __init__(self, **hyperparameters: int) -> None:
        """`hyperparameters` are the subclass's own constructor arguments, kept so that a saved head can be rebuilt."""
        super().__init__()
        self.hyperparameters = hyperparameters
        self.dim = hyperparameters["dim"]
        self.encoder_fingerprint: str | None = None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))

    def check_encoder(self, fingerprint: str | None) -> None:
        """Raises ValueError where slots come from another encoder than those this head was fitted on."""
        if self.encoder_fingerprint != fingerprint:
            raise ValueError(
                f"this head was fitted on slots of the encoder {self.encoder_fingerprint}, these come from "
                f"{fingerprint}; fit a head of its own for every encoder."
            )

    @abstractmethod
    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        """Standardised slots (B K D), zero where not valid (B K) -> (B)."""

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        if transition.slots.shape[2] != self.dim:
            raise ValueError(f"this head reads slots of width {self.dim}, got {transition.slots.shape[2]}.")
        slots = (transition.slots - self.mean) / self.std
        slots = slots.masked_fill(~transition.valid[..., None], 0.0)
        progress = torch.sigmoid(self.score(slots, transition.valid))
        return RewardOutput(reward=progress, progress=progress)


class DeepSetProgress(ProgressHead):
    """rho(max_k h_k, mean_k h_k) with h_k = phi(s_k, max_j psi(s_j)) over valid slots.

    One permutation-equivariant layer and an invariant one (Zaheer et al., 2017, section 3). Progress is mostly a
    relation between two objects, such as the distance of the agent to its target: with the context max_j psi(s_j) each
    slot can hold itself against the others, where pooling alone would have to carry both objects' places through one
    vector. On oracle slots of Object Goal that about halves the distance to the true progress.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.psi = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.of_slot = nn.Linear(dim, width)
        self.of_context = nn.Linear(width, width, bias=False)
        self.phi = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        # psi and phi end in a ReLU and are never negative: zero is neutral for the maximum.
        present = valid[..., None]
        context = (self.psi(slots) * present).amax(1)  # (B width)
        each = self.phi(self.of_slot(slots) + self.of_context(context)[:, None]) * present  # (B K width)
        mean = each.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        score: Tensor = self.rho(torch.cat([each.amax(1), mean], dim=1))
        return score.squeeze(1)


class FlattenedProgress(ProgressHead):
    """An MLP on the slots in the order they come, the control that ignores that slots are a set.

    It breaks the contract of `RewardPredictor` on purpose: the order of slots changes its answer.
    """

    def __init__(self, dim: int, num_slots: int, width: int = 128) -> None:
        super().__init__(dim=dim, num_slots=num_slots, width=width)
        self.layers = nn.Sequential(
            nn.Linear(num_slots * (dim + 1), width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        if slots.shape[1] != self.hyperparameters["num_slots"]:
            raise ValueError(f"this head reads {self.hyperparameters['num_slots']} slots, got {slots.shape[1]}.")
        score: Tensor = self.layers(torch.cat([slots, valid[..., None].float()], dim=2).flatten(1))
        return score.squeeze(1)

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
    """rho(max_k phi(s_k), mean_k phi(s_k)) over valid slots (Zaheer et al., 2017).

    The maximum finds one object, the mean counts and averages them.
    """

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.phi = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        each = self.phi(slots) * valid[..., None]  # (B K width), never negative: zero is neutral for the maximum
        mean = each.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
        return self.rho(torch.cat([each.amax(1), mean], dim=1)).squeeze(1)


class TransformerProgress(ProgressHead):
    """Self-attention between slots before a mean: for progress that depends on pairs of objects."""

    def __init__(self, dim: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__(dim=dim, width=width, heads=heads, layers=layers)
        self.project = nn.Linear(dim, width)
        # Without the fast path of inference, so that training and evaluation compute the same.
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def score(self, slots: Tensor, valid: Tensor) -> Tensor:
        ignored = ~valid & valid.any(1, keepdim=True)  # attention over an empty set would be NaN
        each = self.transformer(self.project(slots), src_key_padding_mask=ignored) * valid[..., None]
        return self.rho(each.sum(1) / valid.sum(1, keepdim=True).clamp(min=1)).squeeze(1)


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
        return self.layers(torch.cat([slots, valid[..., None].float()], dim=2).flatten(1)).squeeze(1)

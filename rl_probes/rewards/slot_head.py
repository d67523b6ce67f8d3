"""What every predictor that is trained on slots shares: their scale, and the encoder they came from."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_probes.rewards.predictor import RewardPredictor


class SlotHead(RewardPredictor):
    """A trained predictor of standardised slots.

    mean, std: (D) of the training slots; zero and one until they are set.
    encoder_fingerprint: of the encoder whose slots it was fitted on; None before that. A head is meaningless on the
    slots of another encoder, so whoever gives it slots calls `check_encoder` first.
    """

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

    def standardised(self, slots: Tensor, valid: Tensor) -> Tensor:
        """Slots (B K D) with mean zero and scale one, and zero where not valid (B K).

        Raises:
            ValueError: slots of another width.
        """
        if slots.shape[2] != self.dim:
            raise ValueError(f"this head reads slots of width {self.dim}, got {slots.shape[2]}.")
        return ((slots - self.mean) / self.std).masked_fill(~valid[..., None], 0.0)

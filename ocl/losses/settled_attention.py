"""Self-distillation of DIAS (2025): the first iteration's attention learns where the last one's will end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.hooks import AfterStep, ReadsModel
from ocl.shapes import Batch, Output


class SettledAttention(nn.Module, ReadsModel, AfterStep):
    """Cross-entropy from the last attention, which carries no gradient, to that of the first iteration:

        L = - share * mean over tokens n of sum over slots k of A^T_kn log A^1_kn

    Slots keep their number over iterations, so nothing is matched. The first iteration is run once more, from the same
    start. `share` rises from 0 to 1 by half a cosine over `rising_steps` optimiser steps. So it does in the released
    code, over the whole training, with a weight of 1, random starts and a gradient through all iterations ("bilevel"
    is said not to fit). That code hands the attention to a cross-entropy of logits, which takes a softmax of it once
    more; here its logarithm is taken, as for any distribution.

    Args:
        rising_steps: published: those of the whole training. 0: the share is 1 from the first step on.

    Raises:
        ValueError: a negative number of steps, or a grouping that gives no attention.
    """

    step: Tensor

    def __init__(self, rising_steps: int = 0) -> None:
        super().__init__()
        if rising_steps < 0:
            raise ValueError(f"rising_steps must be at least 0, got {rising_steps}.")
        self.rising_steps = rising_steps
        self._grouping: tuple[Any, ...] = ()  # in a tuple: the model's part, not a part of this module
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved: a resumed run goes on from here

    def attach(self, model: nn.Module) -> None:
        self._grouping = (model.grouping,)

    @property
    def share(self) -> Tensor:
        """() float32, a tensor on the module's device, so that no step waits for it."""
        if not self.rising_steps:
            return torch.ones((), device=self.step.device)
        progress = (self.step / self.rising_steps).clamp(max=1)
        return 0.5 * (1 - torch.cos(torch.pi * progress))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        if not self._grouping:
            raise ValueError("SettledAttention groups once more; call attach(model) first, as training does.")
        settled = output.slots.masks
        if settled is None:
            raise ValueError("SettledAttention needs a grouping that gives its attention as masks.")
        first = self._grouping[0](output.tokens, output.initial, 1, batch.hints).masks
        # A share that float32 rounds to 0 has no logarithm.
        log_first = first.float().clamp_min(torch.finfo(torch.float32).tiny).log()
        entropy: Tensor = -(settled.detach().float() * log_first).sum(dim=1).mean()
        return self.share * entropy

    def after_step(self) -> None:
        self.step += 1

"""Cycle consistency of slots and features (Didolkar et al. 2024, arXiv 2306.02204): walks should return home."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocl.hooks import ReadsModel
from ocl.losses.cycle_aims import Aim, PositiveSet
from ocl.losses.walks import EXCLUDED, Transitions, Walk
from ocl.shapes import Batch, Output


class SlotFeatureSlot(nn.Module, ReadsModel):
    """A walk from a slot to the features and back should end in the same slot: P = A B near the identity.

        L = -(1/K) sum_i log P_ii                              without a second temperature
        L = -(1/K) sum_i log (softmax over j of P_ij / tau2)_i  with it

    It punishes duplicate slots, and idle ones, so that K far above the number of objects splits objects: keep K near
    it, or let the walk count active slots only. The second form never reaches zero: at tau2 = 1 it lies between
    log(e + K - 1) - 1 and log(e + K - 1), so its weight is of another size.

    The mean is taken over the slots that take part in an image, then over the images where any does.

    Args:
        walk: see `Walk`; None: its defaults.
        second_temperature: tau2.
    """

    def __init__(self, walk: Walk | None = None, second_temperature: float | None = None) -> None:
        super().__init__()
        if second_temperature is not None and second_temperature <= 0:
            raise ValueError(f"second_temperature must be positive, got {second_temperature}.")
        self.walk = Walk() if walk is None else walk
        self.second_temperature = second_temperature

    def attach(self, model: nn.Module) -> None:
        self.walk.attach(model)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        walk = self.walk(output, batch)
        kept = walk.kept
        if self.second_temperature is None:
            log_return = slot_log_return(walk)  # (B K)
        else:
            with torch.autocast(kept.device.type, enabled=False):
                walked = walk.to_features @ walk.to_slots.mT / self.second_temperature  # (B K K)
            walked = walked.masked_fill(~kept[:, None, :], EXCLUDED)
            log_return = walked.log_softmax(dim=2).diagonal(dim1=1, dim2=2)
        per_image = -(log_return * kept).sum(dim=1) / kept.sum(dim=1)
        return mean_of_counted(per_image, walk)


class FeatureSlotFeature(nn.Module, ReadsModel):
    """A walk from a feature to the slots and back should end in features like it: see the aims for what that means.

    With `PositiveSet` it punishes lost and merged objects; it does not mind idle slots.

    The mean is taken over all features of an image, then over the images where any slot takes part.

    Args:
        aim: `PositiveSet`, `Diagonal` or `SoftTarget` of `ocl.losses.cycle_aims`; None: the first at its defaults.
        walk: see `Walk`; None: its defaults.
    """

    def __init__(self, aim: Aim | None = None, walk: Walk | None = None) -> None:
        super().__init__()
        self.aim = PositiveSet() if aim is None else aim
        self.walk = Walk() if walk is None else walk

    def attach(self, model: nn.Module) -> None:
        for part in (self.aim, self.walk):
            if isinstance(part, ReadsModel):
                part.attach(model)

    def forward(self, output: Output, batch: Batch) -> Tensor:
        walk = self.walk(output, batch)
        per_image = self.aim(walk, output, batch).mean(dim=1)
        return mean_of_counted(per_image, walk)


def slot_log_return(walk: Transitions) -> Tensor:
    """log P_ii (B K) = log sum_j A_ij B_ji, without forming P."""
    return (walk.log_to_features + walk.log_to_slots).logsumexp(dim=2)


def mean_of_counted(per_image: Tensor, walk: Transitions) -> Tensor:
    """(B) -> scalar; 0 where no image counts."""
    return (per_image * walk.counted).sum() / walk.counted.sum().clamp(min=1)

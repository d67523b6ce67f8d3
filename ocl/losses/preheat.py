"""The loss that makes a warm start predict where the iterations end (SmoothSA)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ocl.shapes import Batch, Output


class PreheatLoss(nn.Module):
    """Mean squared error between the initial slots and the final ones, which carry no gradient; published weight 100.

    For `ocl.slots.preheated.PreheatedSlots`.
    """

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return F.mse_loss(output.initial.float(), output.slots.vectors.detach().float())

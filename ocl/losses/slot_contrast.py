"""Temporal consistency of slots by contrast (SlotContrast, Manasyan et al. 2025)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ocl.shapes import Batch, Output


class SlotContrast(nn.Module):
    """InfoNCE between slot k of a frame and slot k of the next; all other slots of the batch there are negatives.

        L = - mean over t, b, k of log softmax over (b', k') of cos(s_t,bk, s_t+1,b'k') / temperature, at (b, k)

    Slots of the same clip are told apart from each other, and those of different clips too, so starts should be learned
    ones. Published: temperature 0.1, weight 0.5. For `ocl.video.VideoModel`; all K slots take part.

    Raises:
        ValueError: a temperature that is not positive; slots without a time axis, or of a single frame.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def forward(self, output: Output, batch: Batch) -> Tensor:
        slots = output.slots.vectors
        if slots.ndim != 4 or slots.shape[1] < 2:
            raise ValueError(
                f"SlotContrast needs slots (B, T, K, D) of clips with two frames or more, got {tuple(slots.shape)}."
            )
        directions = functional.normalize(slots.transpose(0, 1).flatten(1, 2).float(), dim=-1)  # (T BK D)
        with torch.autocast(slots.device.type, enabled=False):
            logits = directions[:-1] @ directions[1:].mT / self.temperature  # (T-1 BK BK)
        return -logits.log_softmax(dim=-1).diagonal(dim1=1, dim2=2).mean()

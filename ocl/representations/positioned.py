"""Slots that say where they are."""

from __future__ import annotations

import torch

from ocl.masks.base import Masks
from ocl.representations.base import ObjectEncoder
from ocl.representations.masked import place_and_size
from ocl.shapes import Batch, Slots


class WithPositions(ObjectEncoder):
    """Another encoder's slots with the centroid of their masks appended: x, then y down, in [0, 1]. D is 2 wider.

    For encoders whose vectors tell what an object is rather than where, such as those with positions taken out.
    """

    def __init__(self, encoder: ObjectEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.requires = encoder.requires
        self.num_slots, self.dim = encoder.num_slots, encoder.dim + 2

    def encode(self, batch: Batch) -> Slots:
        """Raises ValueError where the encoder gives no masks."""
        slots: Slots = self.encoder(batch)
        if slots.masks is None:
            raise ValueError(f"{type(self.encoder).__name__} gives no masks, so its slots have no positions to append.")
        masks = Masks(slots.masks, torch.ones_like(slots.valid, dtype=torch.float32), slots.valid)
        positions = place_and_size(masks)[..., :2].to(slots.vectors)
        return Slots(torch.cat([slots.vectors, positions], dim=-1), slots.masks, slots.valid, slots.notes)

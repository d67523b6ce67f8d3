"""Any object encoder as an encoder of single pictures, for segments to be encoded with."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ocl.describe import describe_module, fingerprint
from ocl.masks.image_encoders import ImageEncoder
from ocl.representations.base import ObjectEncoder
from ocl.shapes import Batch, Slots


class SlotMean(ImageEncoder):
    """The mean over an object encoder's valid slots: patches, grid cells, slots, or the one vector of a whole image.

    Args:
        encoder: must read nothing but images; is frozen already.
        image_size: S of the pictures it is given; None takes the encoder's own.

    Raises:
        ValueError: an encoder that reads more than images, or has no size of its own and none is given.
    """

    def __init__(self, encoder: ObjectEncoder, image_size: int | None = None) -> None:
        super().__init__()
        if encoder.requires != frozenset({"images"}):
            raise ValueError(f"a segment has only its picture, the encoder requires {sorted(encoder.requires)}.")
        own: Any = getattr(encoder, "image_size", None)
        if image_size is None and (own is None or own[0] != own[1]):
            raise ValueError(f"segments are encoded as squares and the encoder's size is {own}; give image_size.")
        self.encoder = encoder
        self.image_size = int(own[0]) if image_size is None else image_size
        self.dim = encoder.dim
        self.requires_grad_(False)
        self.train()

    def encode(self, images: Tensor) -> Tensor:
        slots: Slots = self.encoder(Batch(images))
        weights = slots.valid.to(slots.vectors)[..., None]  # (n K 1)
        return (slots.vectors * weights).sum(1) / weights.sum(1).clamp_min(1)

    @property
    def fingerprint(self) -> str:
        """64 hex digits. Equal fingerprint, equal vectors."""
        return fingerprint(self, f"{describe_module(self)}\n{self.encoder.fingerprint}")

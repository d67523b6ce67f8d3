"""One vector per image as an object encoder: whole-scene features, the opposite of objects."""

from __future__ import annotations

from torch import Tensor, nn

from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import Batch, Slots


class WholeImage(ObjectEncoder):
    """An encoder's one vector of the image as the only slot: K = 1. No masks.

    encoder: images (B 3 H W) float in [0, 1] -> (B D), with `image_size` and `dim`; is frozen in place. Images of
    another size are resized to its own (bilinear, antialiased).
    """

    num_slots = 1

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = frozen(encoder)
        self.image_size: tuple[int, int] = self.encoder.image_size
        self.dim: int = self.encoder.dim

    def encode(self, batch: Batch) -> Slots:
        vectors: Tensor = self.encoder(images_at(batch.images, self.image_size))
        return Slots.of(vectors.unsqueeze(1))  # (B D) -> (B 1 D)

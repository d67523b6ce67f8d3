"""Who is compared: the slots trained here, those that come with the package, an untrained control and the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import ocl
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.sprites import COLORS, SHAPES
from ocl.representations import FrozenSlotModel, ObjectEncoder, OracleObjects
from ocl.shapes import Decoded, Output, images_as_float

PRETRAINED = ocl.PRETRAINED / "sprites"
HELD_OUT, PROBED = 1_000_000, 1_000_001
"""Seeds of the scenes that are measured and of those that probes are fitted on; no configuration trains on them."""
IMAGE_SIZE = 64


@dataclass(frozen=True)
class Subject:
    """name: in rows and folders. title: in tables. checkpoint: None for the truth itself."""

    name: str
    title: str
    checkpoint: Path | None

    def encoder(self, episodes: bool = False) -> ObjectEncoder:
        """Frozen. `episodes`: of an agent's frames, where the truth also knows which object is the agent."""
        if self.checkpoint is not None:
            return ocl.load(self.checkpoint)
        categories = {"shape": len(SHAPES), "color": len(COLORS)} | ({"is_agent": 2} if episodes else {})
        return OracleObjects(5, {"position": 2, "scale": 1}, categories)

    def masking_encoder(self) -> FrozenSlotModel:
        """The encoder of a checkpoint with its decoder's masks in place of the attention, which is coarser."""
        encoder = self.encoder()
        if not isinstance(encoder, FrozenSlotModel):
            raise ValueError(f"{self.title} has no decoder, so it has no masks to show.")
        return FrozenSlotModel(encoder.model, encoder.initial_seed, encoder.num_slots, decoder_masks=True)


@torch.no_grad()
def decode(encoder: FrozenSlotModel, images: Tensor) -> Decoded:
    """What the slots of images (B 3 H W) uint8 at the model's size paint, from the encoder's own starts."""
    output: Output = encoder.model(images_as_float(images), encoder.num_slots, encoder.noise)
    return output.decoded


def image_size_of(encoder: ObjectEncoder) -> int:
    """Scenes and episodes are drawn at the size that the encoder reads, so that none has to resize them."""
    return int(getattr(encoder, "image_size", (IMAGE_SIZE, IMAGE_SIZE))[0])


def scenes(size: int, seed: int, image_size: int) -> SpriteScenes:
    return SpriteScenes(size, seed, image_size=image_size)

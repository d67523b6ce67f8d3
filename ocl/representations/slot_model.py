"""A trained (or untrained: the control) slot model as an object encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ocl.model import ObjectCentricModel
from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import Batch, Features, Grouped, Slots


class FrozenSlotModel(ObjectEncoder):
    """Slots of an `ObjectCentricModel`.

    Random starts are drawn once, from `initial_seed`, and used for every image, so that the slots are a function of
    the image. Images of another size are resized to the model's own (bilinear, antialiased). Masks are the grouping's
    attention (B K h w) over the token grid. Weak labels that a batch may hold are not used: starts made for points or
    boxes take those of images without.

    Args:
        model: is frozen in place.
        initial_seed: of the starts; learned starts ignore it.
        num_slots: K; None takes the model's.
        decoder_masks: give the decoder's masks instead of the attention; costs one decoding.

    Raises:
        TypeError: not an `ObjectCentricModel`.
        ValueError: learned starts and another K than theirs.
    """

    noise: Tensor

    def __init__(
        self,
        model: ObjectCentricModel,
        initial_seed: int = 0,
        num_slots: int | None = None,
        decoder_masks: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(model, ObjectCentricModel):
            raise TypeError(f"FrozenSlotModel wraps an ObjectCentricModel, got {type(model).__name__}.")
        encoder: Any = model.encoder
        starts: Any = model.initial_slots
        self.model: Any = frozen(model)
        self.image_size: tuple[int, int] = encoder.image_size
        self.num_slots: int = starts.count(num_slots)
        self.dim: int = starts.dim
        self.initial_seed = initial_seed
        self.decoder_masks = decoder_masks
        noise = torch.randn(self.num_slots, self.dim, generator=torch.Generator().manual_seed(initial_seed))
        self.register_buffer("noise", noise)

    def encode(self, batch: Batch) -> Slots:
        return self._slots(self.model.group(self._features(batch), self.num_slots, self.noise))

    @torch.no_grad()
    def following(self, batch: Batch, previous: Tensor) -> Slots:
        """The slots of frames whose iterations start from the slots of the frames before, `previous` (B K D): objects
        tend to keep their slots. A model of images iterates as often as without; a model of clips predicts the starts
        and iterates as it was trained to. The output then depends on more than the image.

        Raises:
            ValueError: slots of another number of frames, or another K or D than those of this encoder.
        """
        expected = (len(batch), self.num_slots, self.dim)
        if tuple(previous.shape) != expected:
            raise ValueError(f"the slots of the frames before must be {expected}, got {tuple(previous.shape)}.")
        return self._slots(self.model.follow(self._features(batch), previous))

    def _features(self, batch: Batch) -> Features:
        features: Features = self.model.encoder(images_at(batch.images, self.image_size))
        return features

    def _slots(self, grouped: Grouped) -> Slots:
        slots = grouped.slots
        if self.decoder_masks:
            slots.masks = self.model.decode(grouped).masks
        return slots

"""Slots that stay on their objects: each frame's iterations start where the last frame's slots are predicted to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.feature_types import grouping_tokens
from ocl.model import ObjectCentricModel
from ocl.shapes import Decoded, Features, Grouped, Hints, Output, Slots


class VideoModel(ObjectCentricModel):
    """An object-centric model of clips: T iterations on the first frame, then `later_iterations` on each (SAVi).

    In its `Output` every tensor has a time axis after the batch: tokens (B T N F), slots (B T K D), masks
    (B T K h w), prediction (B T 3 H W) or (B T N F). Losses that compare element by element and the metrics of whole
    clips take it as it is.

    Args:
        encoder, initial_slots, grouping, decoder, projection, selection: see `ObjectCentricModel`.
        predictor: slots (B K D) -> where the next frame starts (B K D), such as `ocl.slots.predictor.SlotPredictor`;
            None: the slots themselves.
        later_iterations: on every frame after the first. Published: 1.
        through_time: gradients run through the whole clip, as published. False: slots of the frame before are taken as
            given, so the predictor learns from the next frame alone. Slots that were trained frame by frame need it:
            nothing kept their gradients from growing with every frame.
    """

    def __init__(
        self,
        encoder: nn.Module,
        initial_slots: nn.Module,
        grouping: nn.Module,
        decoder: nn.Module,
        predictor: nn.Module | None = None,
        projection: nn.Module | None = None,
        selection: nn.Module | None = None,
        later_iterations: int = 1,
        through_time: bool = True,
    ) -> None:
        super().__init__(encoder, initial_slots, grouping, decoder, projection, selection)
        if later_iterations < 1:
            raise ValueError(f"later_iterations must be at least 1, got {later_iterations}.")
        self.predictor = predictor
        self.later_iterations = later_iterations
        self.through_time = through_time

    def follow(self, features: Features, previous: Tensor) -> Grouped:
        """One more frame: its features (B N F) and the slots (B K D) of the frame before.

        Raises:
            ValueError: slots of another number of frames or width, another K where the starts have a fixed one, or a
                predictor that changes their shape.
        """
        if previous.ndim != 3 or len(previous) != len(grouping_tokens(features)):
            raise ValueError(
                f"the slots of the frame before must be (B, K, D) with B = {len(grouping_tokens(features))}, got "
                f"{tuple(previous.shape)}."
            )
        starts: Any = self.initial_slots
        starts.count(previous.shape[1])  # refuses another K where the starts have a fixed one
        initial = previous if self.predictor is None else self.predictor(previous)
        if initial.shape != previous.shape:
            raise ValueError(
                f"K and D stay the same through a clip, but the predictor made {tuple(initial.shape)} of "
                f"{tuple(previous.shape)}."
            )
        return self.group(features, iterations=self.later_iterations, initial=initial)

    def forward(
        self,
        images: Tensor,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        iterations: int | None = None,
        hints: Hints | None = None,
    ) -> Output:
        """clips (B T 3 H W) float in [0, 1] -> `Output` with a time axis; images (B 3 H W) as a model of images does.

        `num_slots`, `noise`, `iterations` and `hints` are for the first frame.
        """
        if images.ndim == 4:
            return super().forward(images, num_slots, noise, iterations, hints)
        if images.ndim != 5 or images.shape[1] == 0:
            raise ValueError(f"clips must be (B, T, 3, H, W) with at least one frame, got {tuple(images.shape)}.")
        clips = images.shape[:2]
        features: Features = self.encoder(images.flatten(0, 1))  # all frames together
        frames_read = grouping_tokens(features).unflatten(0, clips).unbind(1)
        first, *later = (Features(tokens, features.grid) for tokens in frames_read)
        frames = [self.group(first, num_slots, noise, iterations, hints)]
        for frame in later:
            previous = frames[-1].slots.vectors
            frames.append(self.follow(frame, previous if self.through_time else previous.detach()))
        flat = _flattened(features, frames)
        return _unflattened(flat, self.decode(flat), clips)


def _flattened(features: Features, frames: list[Grouped]) -> Grouped:
    """T groupings of B images each -> one of B T images, clip by clip."""

    def joined(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts, dim=1).flatten(0, 1)

    slots = [frame.slots for frame in frames]
    masks = [one.masks for one in slots if one.masks is not None]
    return Grouped(
        features,
        Features(joined([frame.tokens.tokens for frame in frames]), frames[0].tokens.grid),
        joined([frame.initial for frame in frames]),
        Slots(
            joined([one.vectors for one in slots]),
            joined(masks) if masks else None,
            joined([one.valid for one in slots]),
            # What every frame left in one shape; traces over iterations differ in length.
            {
                name: joined([one.notes[name] for one in slots])
                for name, note in slots[0].notes.items()
                if all(name in one.notes and one.notes[name].shape == note.shape for one in slots)
            },
        ),
    )


def _unflattened(flat: Grouped, decoded: Decoded, clips: torch.Size) -> Output:
    def split(values: Tensor) -> Tensor:
        separated: Tensor = values.unflatten(0, clips)
        return separated

    slots = flat.slots
    return Output(
        Features(split(flat.features.tokens), flat.features.grid),
        Features(split(flat.tokens.tokens), flat.tokens.grid),
        split(flat.initial),
        Slots(
            split(slots.vectors),
            None if slots.masks is None else split(slots.masks),
            split(slots.valid),
            {name: split(note) for name, note in slots.notes.items()},
        ),
        Decoded(split(decoded.prediction), split(decoded.masks)),
    )

"""Recorded videos as clips of equal length, in which every object keeps its number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ocl.data.images import center_image, center_labels
from ocl.data.scenes import Item


class Videos(Dataset[Item], ABC):
    """Items: "images" (T 3 S S) uint8; "segmentation" (T L L) int32, 0 background, m + 1 the object in column m, -1
    unknown; "visible" (T M) bool, at least a pixel is seen in that frame; "present" (M) bool, the columns that hold an
    object of the video; attributes (M).

    A video is cut into clips of T consecutive frames, one after the other; frames that are left over at its end, and
    videos that are shorter, are not read (`left_out` counts these). With T = 1 and
    `ocl.data.clips.ClipFrames` every frame is an image of its own.

    Args:
        lengths: frames of every video.
        frames: T.
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        label_size: L, of the same cut; None: S.

    Raises:
        ValueError: numbers below 1, or no video of T frames; on reading, a damaged file or more than M objects.
    """

    def __init__(
        self, lengths: Sequence[int], frames: int, size: int, max_objects: int, label_size: int | None = None
    ) -> None:
        self.label_size = size if label_size is None else label_size
        if min(frames, size, max_objects, self.label_size) < 1:
            found = f"{frames}, {size}, {max_objects} and {self.label_size}"
            raise ValueError(f"frames, size, max_objects and label_size must be at least 1, got {found}.")
        self.frames, self.image_size, self.max_objects = frames, (size, size), max_objects
        self.left_out = sum(length < frames for length in lengths)
        self._clips = [
            (video, start) for video, length in enumerate(lengths) for start in range(0, length - frames + 1, frames)
        ]
        if not self._clips:
            raise ValueError(
                f"none of {len(lengths)} videos has {frames} frames; the longest has {max(lengths, default=0)}."
            )

    @abstractmethod
    def read(self, video: int, start: int) -> tuple[list[Image.Image], list[NDArray[np.integer[Any]]]]:
        """T frames from `start` on, and their label maps (H W)."""

    @abstractmethod
    def attributes(self, video: int) -> dict[str, NDArray[Any]]:
        """Attributes (m) of the m objects of a video, "class" int64 among them."""

    @abstractmethod
    def name(self, video: int) -> str:
        """Of a video, for messages."""

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Item:
        video, start = self._clips[index]
        attributes, name = self.attributes(video), self.name(video)
        count = len(attributes["class"])
        if count > self.max_objects:
            raise ValueError(f"{name} shows {count} objects; read it with max_objects={count} or more.")
        images, maps = self.read(video, start)
        labels = np.stack([center_labels(*pair, self.label_size, name) for pair in zip(maps, images, strict=True)])
        if labels.max() > count:
            raise ValueError(f"{name} shows the object {labels.max()}, but {count} are listed; restore it.")
        columns = np.arange(1, self.max_objects + 1)
        visible = np.stack([np.isin(columns, frame) for frame in labels])
        return {
            "images": torch.from_numpy(np.stack([center_image(image, self.image_size[0]) for image in images])),
            "segmentation": torch.from_numpy(labels),
            "visible": torch.from_numpy(visible),
            "present": torch.from_numpy(columns <= count),
            **{key: torch.from_numpy(self._padded(values)) for key, values in attributes.items()},
        }

    def _padded(self, values: NDArray[Any]) -> NDArray[Any]:
        padded = np.zeros((self.max_objects, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return padded

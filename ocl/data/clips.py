"""Clips as frames, for stores and for encoders of images, and stored frames as clips, for models of video."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ocl.data.scenes import Item, read_items
from ocl.data.stored import StoredItems

EPISODE, STEP = "episode", "step"
PER_FRAME = ("images", "segmentation", "visible", "position", "camera")


class ClipFrames(Dataset[Item]):
    """Every frame of every clip as an item, for `ocl generate` and `ocl extract`; `StoredClips` reads them as clips.

    A frame has the attributes of its clip, and "episode", the number of the clip, and "step", its own in it, int64.

    Args:
        dataset: clips of one length T: "images" (T 3 H W).
        per_frame: which fields have a time axis; the others are of the whole clip.

    Raises:
        ValueError: no clips; while reading, clips of another length than the first.
    """

    def __init__(self, dataset: Dataset, per_frame: Sequence[str] = PER_FRAME) -> None:  # type: ignore[type-arg]
        self.dataset: Dataset[Item] = dataset
        self.per_frame = tuple(per_frame)
        images = self.dataset[0]["images"]
        if images.ndim != 4:
            raise ValueError(f"ClipFrames takes clips, images (T 3 H W), and got items of {tuple(images.shape)}.")
        self.frames = len(images)
        self.categories: dict[str, tuple[str, ...]] = getattr(dataset, "categories", {})

    def __len__(self) -> int:
        return self.frames * len(cast(Sized, self.dataset))

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The items at `indices`; IndexError where one is outside 0..len - 1."""
        if not all(0 <= index < len(self) for index in indices):
            raise IndexError(f"indices must be in 0..{len(self) - 1}, got {min(indices)}..{max(indices)}.")
        places = [divmod(index, self.frames) for index in indices]
        numbers = sorted({clip for clip, _ in places})
        clips = dict(zip(numbers, read_items(self.dataset, numbers), strict=True))
        for number, clip in clips.items():
            if len(clip["images"]) != self.frames:
                raise ValueError(
                    f"clip {number} has {len(clip['images'])} frames, the first {self.frames}; cut them to one length."
                )
        return [self._frame(clips[clip], clip, frame) for clip, frame in places]

    def _frame(self, clip: Item, number: int, frame: int) -> Item:
        item = {name: value[frame] if name in self.per_frame else value for name, value in clip.items()}
        return {**item, EPISODE: torch.tensor(number), STEP: torch.tensor(frame)}


class StoredClips(Dataset[Item]):
    """Consecutive frames of a store as clips: every field (T ...), "images" (T 3 H W), or (T 1 N D) of tokens.

    Frames belong together by their "episode" and are ordered by their "step", wherever in the store they are. Clips
    never cross episodes or gaps between steps.

    Args:
        frames: stored frames: `ocl.data.stored.StoredScenes`, also of episodes that `rl-probes collect` played, or
            `ocl.data.stored_tokens.StoredTokens`.
        length: T; None takes whole episodes, which must all be equally long.
        stride: steps between the starts of two clips of an episode; None: T, so that no frame is read twice.
        size: how many of these clips, drawn without repeats; None takes all, in the order of the store.
        seed: of the drawing.

    Raises:
        ValueError: frames without episode or step, two frames of one step, episodes of unequal length where whole ones
            are asked for, no episode as long as a clip, or fewer clips than `size`.
    """

    def __init__(
        self,
        frames: StoredItems,
        length: int | None = None,
        stride: int | None = None,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        if min(value for value in (length, stride, size, 1) if value is not None) < 1:
            raise ValueError(f"length, stride and size must be at least 1, got {length}, {stride} and {size}.")
        self.frames, self.stride, self.size, self.seed = frames, stride, size, seed
        episodes, steps = frames.column(EPISODE), frames.column(STEP)
        if episodes.ndim != 1 or steps.ndim != 1:
            raise ValueError(f"{EPISODE} and {STEP} must be one number per frame, got {episodes.shape}, {steps.shape}.")
        order = np.lexsort((steps, episodes))
        episodes, steps = episodes[order], steps[order].astype(np.int64)
        same = episodes[1:] == episodes[:-1]
        if (same & (steps[1:] == steps[:-1])).any():
            raise ValueError(f"an {EPISODE} of the store holds two frames of one {STEP}; write each episode once.")
        breaks = np.flatnonzero(~same | (steps[1:] != steps[:-1] + 1)) + 1
        starts, ends = np.r_[0, breaks], np.r_[breaks, len(order)]  # runs of consecutive steps
        self.length = _common_length(ends - starts) if length is None else length
        every = self.length if stride is None else stride
        first = [np.arange(start, end - self.length + 1, every) for start, end in zip(starts, ends, strict=True)]
        found = np.concatenate(first)
        if not len(found):
            raise ValueError(f"no episode has {self.length} frames in a row; the longest has {(ends - starts).max()}.")
        if size is not None:
            if size > len(found):
                raise ValueError(f"{size} clips were asked for, the store holds {len(found)} of {self.length} frames.")
            found = np.random.default_rng(seed).choice(found, size, replace=False)
        self._records: NDArray[np.int64] = order[found[:, None] + np.arange(self.length)]  # (clips, T)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index + len(self) if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """The clips at `indices`, in one reading; IndexError where one is outside 0..len - 1."""
        if not all(0 <= index < len(self) for index in indices):
            raise IndexError(f"indices must be in 0..{len(self) - 1}, got {min(indices)}..{max(indices)}.")
        frames = self.frames.__getitems__(self._records[list(indices)].reshape(-1).tolist())
        clips = [frames[start : start + self.length] for start in range(0, len(frames), self.length)]
        return [{name: torch.stack([frame[name] for frame in clip]) for name in clip[0]} for clip in clips]


def _common_length(lengths: NDArray[np.int64]) -> int:
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest != longest:
        raise ValueError(f"episodes have {shortest} to {longest} frames; name the length of the clips.")
    return longest

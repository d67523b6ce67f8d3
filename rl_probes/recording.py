"""Recorded episodes as frames: what `rl_probes.collect` writes and the reward predictors learn from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.store import FeatureStore


@dataclass(frozen=True)
class Recording:
    """n frames, those of an episode one after the other. Frame t holds the state s_t and how it was reached.

    vectors:     (n K D) float16 slots of s_t; valid (n K) bool.
    action:      (n) the action that led to s_t, -1 at an episode's first frame; reward (n) what it paid, there 0.
    progress:    (n) float32 true progress in s_t, in [0, 1]; NaN where the world did not say.
    terminated, truncated, success: (n) bool, of s_t.
    episode:     (n) int64 name of the episode; step (n) t, from 0. The last episode of a stream may be cut: its last
                 frame is neither terminated nor truncated.
    fingerprint: of the encoder that made the slots.
    """

    vectors: NDArray[np.float16]
    valid: NDArray[np.bool_]
    action: NDArray[np.int32]
    reward: NDArray[np.float32]
    progress: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]
    episode: NDArray[np.int64]
    step: NDArray[np.int32]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in NAMES}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"every field of a recording needs one entry per frame, got {lengths}.")
        if not np.isfinite(self.vectors[self.valid]).all():
            raise ValueError("a valid slot of the recording holds NaN or infinity; collect it again.")

    @classmethod
    def load(cls, folder: str | Path, expect_fingerprint: str | None = None) -> Self:
        """Read a store that `collect` wrote, whole.

        Raises:
            FileNotFoundError: no finished store there.
            ValueError: damaged, without the fields of a recording, or of another encoder than `expect_fingerprint`.
        """
        store = FeatureStore(folder, expect_fingerprint=expect_fingerprint)
        missing = sorted(set(NAMES) - set(store.fields))
        if missing:
            raise ValueError(f"{folder} is no recording of episodes: it lacks {', '.join(missing)}.")
        return cls(**store.read_all(NAMES), fingerprint=store.provenance.get("fingerprint"))

    def __len__(self) -> int:
        return len(self.episode)

    def take(self, frames: NDArray[Any]) -> Self:
        """The frames that a mask (n) or an index picks."""
        arrays: dict[str, Any] = {name: getattr(self, name)[frames] for name in NAMES}
        return replace(self, **arrays)

    def pairs(self, gap: int = 1) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Indices of s and of s', `gap` steps later in the episode, wherever both frames are here.

        Raises:
            ValueError: a gap below 1.
        """
        if gap < 1:
            raise ValueError(f"the frames of a pair are at least one step apart, got {gap}.")
        joined = (self.episode[gap:] == self.episode[:-gap]) & (self.step[gap:] == self.step[:-gap] + gap)
        first = np.flatnonzero(joined)
        return first, first + gap

    def joined(self, *others: Self) -> Self:
        """These frames, then those of the others, whose episodes get new names: below zero, where no recorded ones are.

        Raises:
            ValueError: slots of another encoder or another shape.
        """
        parts = [self]
        for other in others:
            if other.fingerprint != self.fingerprint or other.vectors.shape[1:] != self.vectors.shape[1:]:
                raise ValueError(
                    f"recordings to be joined need slots of one encoder and shape, got {self.fingerprint} "
                    f"{self.vectors.shape[1:]} and {other.fingerprint} {other.vectors.shape[1:]}."
                )
            before = min(0, *(int(part.episode.min(initial=0)) for part in parts)) - 1
            names = np.unique(other.episode, return_inverse=True)[1]
            parts.append(replace(other, episode=(before - names).astype(self.episode.dtype)))
        arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in NAMES}
        return replace(self, **arrays)

    def finals(self) -> NDArray[np.intp]:
        """Index of the last frame of every episode that came to its end."""
        return np.flatnonzero(self.terminated | self.truncated)

    def split(self, fractions: tuple[float, ...] = (0.7, 0.15, 0.15), seed: int = 0) -> tuple[Self, ...]:
        """Parts of whole episodes, at random; the frames of an episode are far too alike to be on two sides.

        Raises:
            ValueError: fractions that are not positive with sum one, or fewer episodes than parts.
        """
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
            raise ValueError(f"fractions must be positive with sum one, got {fractions}.")
        names = np.unique(self.episode)
        ends = np.round(np.cumsum((0.0, *fractions)) * len(names)).astype(int)
        if (np.diff(ends) < 1).any():
            raise ValueError(f"{len(names)} episodes cannot be split by {fractions}; record more.")
        names = np.random.default_rng(seed).permutation(names)
        groups = (names[start:end] for start, end in pairwise(ends))
        return tuple(self.take(np.isin(self.episode, group)) for group in groups)


@dataclass(frozen=True)
class Goals:
    """What each of n frames should come to, as slots: vectors (n G D), valid (n G) bool, weight (n G) >= 0."""

    vectors: NDArray[np.float16]
    valid: NDArray[np.bool_]
    weight: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or not self.vectors.shape[:2] == self.valid.shape == self.weight.shape:
            raise ValueError(
                f"goals need vectors (n G D) with valid and weight (n G), got {self.vectors.shape}, "
                f"{self.valid.shape} and {self.weight.shape}."
            )

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, frames: NDArray[Any]) -> Self:
        return replace(self, vectors=self.vectors[frames], valid=self.valid[frames], weight=self.weight[frames])

    def fields(self, frames: NDArray[Any]) -> dict[str, Tensor]:
        """Of `SlotTransition`, for these frames."""
        part = self.take(frames)
        return {
            "goal_slots": torch.from_numpy(part.vectors),
            "goal_valid": torch.from_numpy(part.valid),
            "goal_weight": torch.from_numpy(part.weight),
        }


NAMES = tuple(field.name for field in fields(Recording) if field.name != "fingerprint")

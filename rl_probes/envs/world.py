"""The one interface of every batched environment: numpy state, no autoreset, pixels only when somebody asks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ocl.shapes import Batch


class Outcome(NamedTuple):
    """What one step of B environments returned.

    reward (B,) float32; terminated (B,) bool: the task ended; truncated (B,) bool: only the time ran out;
    info: named arrays, each (B, ...), for example "success" bool and "progress" float32 in [0, 1].
    """

    reward: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    info: dict[str, NDArray[Any]]


class World(ABC):
    """B environments stepped together.

    The caller sees the terminal frame (`observe`) before it resets the finished environments itself: nothing is
    skipped and no dummy step exists.
    """

    num_envs: int
    num_actions: int
    image_size: tuple[int, int]
    fields: frozenset[str]
    """What `observe` can fill: "images" always, "segmentation" and "objects" where the simulator knows them."""
    score_range: tuple[float, float] | None = None
    """The returns that published tables count as 0 and 1, where there are such."""

    @abstractmethod
    def reset(self, indices: NDArray[np.int64] | None = None, seeds: NDArray[np.int64] | None = None) -> None:
        """Start new episodes in `indices` (all where None); `seeds` (one each) fix them, None takes the next of the
        world's own generator."""

    @abstractmethod
    def step(self, actions: NDArray[np.int64]) -> Outcome:
        """One action for each environment. A finished one may be stepped on; what it returns then means nothing."""

    @abstractmethod
    def observe(self, fields: frozenset[str], indices: NDArray[np.int64] | None = None) -> Batch:
        """The current frames with `fields` filled; images uint8 (B 3 H W)."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that a later `set_state` needs to continue exactly, generators included; safe to store
        as JSON and arrays."""

    @abstractmethod
    def set_state(self, state: dict[str, Any]) -> None: ...

    def provenance(self) -> dict[str, Any]:
        """What decides how episodes run and look, the simulator's build included; for manifests and tables."""
        return {"environment": type(self).__name__}

    @abstractmethod
    def close(self) -> None: ...

    def _chosen(self, indices: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The environments that are meant: all of them for None. A mask is no list of indices, and refused."""
        if indices is None:
            return np.arange(self.num_envs)
        chosen = np.asarray(indices)
        if not np.issubdtype(chosen.dtype, np.integer):
            raise TypeError(
                f"{type(self).__name__}: indices must be integers, got {chosen.dtype}; use np.flatnonzero on a mask."
            )
        return chosen

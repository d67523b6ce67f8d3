"""Many independent streams of random numbers drawn side by side, each a pure function of its own seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): a bijection that passes BigCrush on a counter."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Streams:
    """n streams, one per seed. A stream's numbers do not depend on which others are drawn beside it.

    A numpy generator per environment costs more than a whole reset; one shared by all environments would make an
    episode depend on its neighbours.
    """

    def __init__(self, seeds: NDArray[np.int64]) -> None:
        self._state = _mix(seeds.astype(np.uint64) + _STEP)

    def __len__(self) -> int:
        return len(self._state)

    def uniform(self, count: int = 1, rows: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """(n count) numbers in [0, 1): the next `count` of every stream, or of those in `rows`."""
        chosen = np.arange(len(self)) if rows is None else rows
        steps = np.arange(1, count + 1, dtype=np.uint64) * _STEP
        drawn = _mix(self._state[chosen, None] + steps)
        self._state[chosen] += steps[-1]
        return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def below(self, bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) integers in 0..bound - 1, one per stream; `bound` may differ per stream."""
        return (self.uniform()[:, 0] * bound).astype(np.int64)

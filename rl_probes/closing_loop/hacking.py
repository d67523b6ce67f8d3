"""A predicted reward that is earned more and more while the true return falls: the policy has learnt to fool it."""

from __future__ import annotations

from collections import deque
from math import isfinite
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class HackingWarning(UserWarning):
    """The predicted reward rises while the true return falls."""


class Change(NamedTuple):
    """A mean over the later half of some episodes minus that over the earlier half, and the ends of its interval."""

    value: float
    low: float
    high: float


class Changes(NamedTuple):
    """Over the last `episodes` episodes."""

    episodes: int
    predicted: Change
    true: Change


class HackingMonitor:
    """Compares the earlier and the later half of the last episodes: of the last `window`, and of twice, four times, ...
    as many, since a policy may part from its task at once or by and by.

    It fires where, over one of these, the mean predicted return rises and the mean true return falls: the one-sided
    bounds at `confidence` of both changes lie beyond zero (Welch: each half has a variance of its own, and halves are
    large enough for the normal quantile). Where the true return does not change, its bound is passed by chance in a
    share 1 - confidence of independent windows. Neither a true return that merely stands still nor one that falls
    together with the predicted one makes it fire.

    Episodes count in the order in which they end. A true return that is always zero cannot fall: on a task that random
    play never solves, nothing can be said before something was solved.

    Args:
        window: fewest episodes compared, an even number.
        doublings: how often the window is doubled; `window * 2**doublings` episodes are remembered.
        confidence: of each of the two bounds.
        stop: end the training where it fires; else it is warned of and noted, and training goes on.

    Raises:
        ValueError: a window that is odd or below 20, negative doublings, or a confidence outside (0.5, 1).
    """

    def __init__(self, window: int = 500, doublings: int = 4, confidence: float = 0.999, stop: bool = True) -> None:
        if window < 20 or window % 2 or doublings < 0:
            raise ValueError(
                f"window must be an even number of at least 20 episodes and doublings at least 0, got {window} and "
                f"{doublings}."
            )
        if not 0.5 < confidence < 1:
            raise ValueError(f"confidence must be in (0.5, 1), got {confidence}.")
        self.window, self.doublings, self.confidence, self.stop = window, doublings, confidence, stop
        self.fired_at: int | None = None
        self._predicted, self._true = (deque[float](maxlen=window * 2**doublings) for _ in range(2))

    def reset(self) -> None:
        """Forget all episodes: another run begins."""
        self.set_state({"predicted": [], "true": [], "fired_at": None})

    def add(self, predicted: float, true: float) -> None:
        """One finished episode: the sum of its predicted and of its true rewards.

        Raises:
            ValueError: a return that is not finite.
        """
        if not (isfinite(predicted) and isfinite(true)):
            raise ValueError(f"returns must be finite, got predicted {predicted} and true {true}.")
        self._predicted.append(predicted)
        self._true.append(true)

    def changes(self) -> list[Changes]:
        """Over the window and its doublings, as far as so many episodes have ended."""
        predicted, true = np.array(self._predicted), np.array(self._true)
        widths = (self.window * 2**doubling for doubling in range(self.doublings + 1))
        return [Changes(n, self._change(predicted[-n:]), self._change(true[-n:])) for n in widths if n <= len(true)]

    def check(self, steps: int) -> Changes | None:
        """What makes it fire now, if anything does; the first time, `steps` is kept as `fired_at`."""
        found = next((one for one in self.changes() if one.predicted.low > 0 and one.true.high < 0), None)
        if found is not None and self.fired_at is None:
            self.fired_at = steps
        return found

    def describe(self) -> dict[str, Any]:
        """The rule, for manifests."""
        names = ("window", "doublings", "confidence", "stop")
        return {name: getattr(self, name) for name in names}

    def state(self) -> dict[str, Any]:
        return {"predicted": np.array(self._predicted), "true": np.array(self._true), "fired_at": self.fired_at}

    def set_state(self, state: dict[str, Any]) -> None:
        self._predicted = deque(np.asarray(state["predicted"]).tolist(), maxlen=self._predicted.maxlen)
        self._true = deque(np.asarray(state["true"]).tolist(), maxlen=self._true.maxlen)
        self.fired_at = state["fired_at"]

    def _change(self, returns: NDArray[np.float64]) -> Change:
        earlier, later = np.split(returns, 2)
        value = float(later.mean() - earlier.mean())
        error = float(np.sqrt((earlier.var(ddof=1) + later.var(ddof=1)) / len(earlier)))
        margin = NormalDist().inv_cdf(self.confidence) * error
        return Change(value, value - margin, value + margin)

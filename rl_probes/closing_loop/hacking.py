"""Watch a predicted reward being earned: when it rises while the true return falls, the policy has learnt to fool it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class HackingWarning(UserWarning):
    """The predicted reward rises while the true return falls."""


class Change(NamedTuple):
    """A mean over the later half of a window minus that over the earlier half, and the ends of its interval."""

    value: float
    low: float
    high: float


class HackingMonitor:
    """Compares the earlier and the later half of the last `window` finished episodes.

    It fires where the mean predicted return rises and the mean true return falls: the one-sided bounds at `confidence`
    of both changes lie beyond zero (Welch: each half has a variance of its own, and halves are large enough for the
    normal quantile). Where nothing changes, each bound is passed by chance in a share 1 - confidence of windows. Neither
    a true return that merely stands still nor one that falls together with the predicted one makes it fire.

    Episodes count in the order in which they end. A true return that is always zero cannot fall: on a task that random
    play never solves, nothing can be said before something was solved.

    Args:
        window: episodes, an even number.
        confidence: of each of the two bounds.
        stop: end the training where it fires; else it is warned of and noted, and training goes on.

    Raises:
        ValueError: a window that is odd or below 20, or a confidence outside (0.5, 1).
    """

    def __init__(self, window: int = 1000, confidence: float = 0.999, stop: bool = True) -> None:
        if window < 20 or window % 2:
            raise ValueError(f"window must be an even number of at least 20 episodes, got {window}.")
        if not 0.5 < confidence < 1:
            raise ValueError(f"confidence must be in (0.5, 1), got {confidence}.")
        self.window, self.confidence, self.stop = window, confidence, stop
        self.fired_at: int | None = None
        self._episodes: deque[tuple[float, float]] = deque(maxlen=window)

    def add(self, predicted: float, true: float) -> None:
        """One finished episode: the sum of its predicted and of its true rewards.

        Raises:
            ValueError: a return that is not finite.
        """
        if not (np.isfinite(predicted) and np.isfinite(true)):
            raise ValueError(f"returns must be finite, got predicted {predicted} and true {true}.")
        self._episodes.append((predicted, true))

    def changes(self) -> tuple[Change, Change] | None:
        """Of the predicted and of the true return; None before `window` episodes have ended."""
        if len(self._episodes) < self.window:
            return None
        predicted, true = np.array(self._episodes).T
        return self._change(predicted), self._change(true)

    def check(self, steps: int) -> bool:
        """Whether it fires now; the first time, `steps` is kept as `fired_at`."""
        changes = self.changes()
        fires = changes is not None and changes[0].low > 0 and changes[1].high < 0
        if fires and self.fired_at is None:
            self.fired_at = steps
        return fires

    def describe(self) -> dict[str, Any]:
        return {"window": self.window, "confidence": self.confidence, "stop": self.stop}

    def report(self) -> dict[str, Any]:
        """For the manifest: the rule, when it fired first, and the changes over the last window."""
        changes = self.changes()
        found = {} if changes is None else {"predicted": changes[0]._asdict(), "true": changes[1]._asdict()}
        return self.describe() | {"fired_at": self.fired_at} | found

    def state(self) -> dict[str, Any]:
        episodes: Sequence[tuple[float, float]] = list(self._episodes)
        return {"episodes": np.array(episodes, np.float64).reshape(-1, 2), "fired_at": self.fired_at}

    def set_state(self, state: dict[str, Any]) -> None:
        self._episodes = deque(((float(p), float(t)) for p, t in np.asarray(state["episodes"])), maxlen=self.window)
        self.fired_at = state["fired_at"]

    def _change(self, returns: NDArray[np.float64]) -> Change:
        earlier, later = np.split(returns, 2)
        value = float(later.mean() - earlier.mean())
        error = float(np.sqrt((earlier.var(ddof=1) + later.var(ddof=1)) / len(earlier)))
        margin = NormalDist().inv_cdf(self.confidence) * error
        return Change(value, value - margin, value + margin)

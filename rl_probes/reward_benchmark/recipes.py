"""How the predictors that are compared come to be: each recipe makes one from the training episodes of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rl_probes.fit_rewards import (
    StepTarget,
    deep_set,
    fit_preferences,
    fit_progress,
    fit_stages,
    fit_steps,
    gain_of_progress,
)
from rl_probes.labels import Ends, ends_of_stages
from rl_probes.negatives import clipped, minimally_edited, rewound
from rl_probes.recording import Recording
from rl_probes.rewards.goal_similarity import SlotGoalSimilarity
from rl_probes.rewards.predictor import RewardPredictor

Build = Callable[[int, int], Any]  # of a head, which command lines name by import path
Target = Callable[..., Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """What a recipe may see: the slots of a split with their labels, and the stage (n) of every frame."""

    recording: Recording
    stage: NDArray[np.int32]


class Recipe(ABC):
    """Makes a predictor from training episodes; the same for the same arguments and seed."""

    @abstractmethod
    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor: ...

    def describe(self) -> dict[str, Any]:
        """Its class and its arguments, in JSON's types."""
        return {"recipe": type(self).__name__} | {name: _text(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Progress(Recipe):
    """A head regressed on the true progress of single states.

    Args:
        build: (num_slots, dim) -> a fresh progress head, such as `rl_probes.fit_rewards.deep_set`.
        negatives: Also train on clipped, rewound and minimally edited episodes, all labels known.
        epochs: Passes over the training frames.
    """

    build: Build = deep_set
    negatives: bool = False
    epochs: int = 15

    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor:
        recording = train.recording
        if self.negatives:
            generator = np.random.default_rng(seed)
            more = clipped(recording, generator), rewound(recording, generator), minimally_edited(recording)
            recording = recording.joined(*more)
        return fit_progress(recording, val.recording, self.build, epochs=self.epochs, seed=seed)


@dataclass(frozen=True)
class Steps(Recipe):
    """A head that sees both states of a step.

    Args:
        target: What a step is worth, such as `rl_probes.fit_rewards.gain_of_progress`.
        gaps: How many frames apart the two states of training pairs lie.
        balance: Weigh changes of every size alike.
        epochs: Passes over the training pairs.
    """

    target: Target = gain_of_progress
    gaps: tuple[int, ...] = (1,)
    balance: bool = False
    epochs: int = 15

    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor:
        target: StepTarget = self.target
        options: dict[str, Any] = {"gaps": self.gaps, "balance": self.balance, "epochs": self.epochs, "seed": seed}
        return fit_steps(train.recording, val.recording, target, **options)


@dataclass(frozen=True)
class Stages(Recipe):
    """Stage and progress within it from the successes alone, as demonstrations with marked stages; no true progress.

    Args:
        epochs: Passes over the frames of demonstrations.
    """

    epochs: int = 15

    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor:
        ends: Ends = {}
        for part in (train, val):
            found = ends_of_stages(part.recording, part.stage)
            ends |= {name: marks for name, marks in found.items() if len(marks) == _stages(train)}
        return fit_stages(train.recording, val.recording, ends, epochs=self.epochs, seed=seed)


@dataclass(frozen=True)
class Preferences(Recipe):
    """An ensemble fitted to which of two fragments a judge who knows the progress prefers.

    Args:
        pairs: Of fragments the judge is asked about.
        length: Frames of a fragment.
        epochs: Passes over the pairs.
    """

    pairs: int = 1000
    length: int = 10
    epochs: int = 10

    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor:
        options: dict[str, Any] = {"pairs": self.pairs, "length": self.length, "epochs": self.epochs, "seed": seed}
        return fit_preferences(train.recording, val.recording, **options)


@dataclass(frozen=True)
class GoalSimilarity(Recipe):
    """How alike the state's slots are to the goal's, in cosines of their standardised features; nothing is trained
    but the scale."""

    def make(self, train: Episodes, val: Episodes, seed: int) -> RewardPredictor:
        recording = train.recording
        slots = recording.vectors[recording.valid].astype(np.float64)
        spread = slots.std(0)
        scale = _Standardised(slots.mean(0), np.where(spread > 1e-6, spread, 1.0))
        return SlotGoalSimilarity([scale]).eval()


class _Standardised(nn.Module):
    """(x - mean) / std of slots (... D)."""

    def __init__(self, mean: Array, std: Array) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("std", torch.from_numpy(std).float())

    def forward(self, slots: Tensor) -> Tensor:
        return (slots - self.mean) / self.std


def _stages(episodes: Episodes) -> int:
    return int(episodes.stage.max(initial=0)) + 1


def _text(value: Any) -> Any:
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return list(value) if isinstance(value, tuple) else value

"""Which of an image's segments is the foreground: scores per segment, from what a classifier says of each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.masks.base import Masks


@dataclass
class Candidates:
    """What is known of the segments of B images.

    probabilities: (E B K C) of the E members of an ensemble, the first being the model that classifies; E may be 1.
    masks:         the segments.
    labels:        (B) int64 true classes, or None where not known.
    boxes:         (B 4) true boxes (left, top, right, bottom) in pixels, right and bottom exclusive, or None.
    """

    probabilities: Tensor
    masks: Masks
    labels: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        images, count = self.masks.valid.shape
        if self.probabilities.ndim != 4 or self.probabilities.shape[1:3] != (images, count):
            raise ValueError(f"probabilities must be (E, {images}, {count}, C), got {tuple(self.probabilities.shape)}.")


class ForegroundScore(ABC):
    """A score per segment; the highest is taken for the foreground.

    uses_label: whether the true label enters. Such a score is an oracle, to be reported beside its chance level
                (`ocl.masks.chance`).
    """

    uses_label: bool = False
    name: str

    @abstractmethod
    def score(self, candidates: Candidates) -> Tensor:
        """(B K) floating; what it gives for segments that are not valid does not matter."""

    def __call__(self, candidates: Candidates) -> Tensor:
        """(B K) float32, -inf where not valid."""
        return self.score(candidates).float().masked_fill(~candidates.masks.valid, -torch.inf)


class MaximumProbability(ForegroundScore):
    """max over c of p_c: "Max Prob" of the paper."""

    name = "maximum probability"

    def score(self, candidates: Candidates) -> Tensor:
        return candidates.probabilities[0].amax(-1)

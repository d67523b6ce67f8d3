"""From a score per segment to one prediction per image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.base import Masks, MaskSource, required_by
from ocl.masks.foreground import Candidates
from ocl.shapes import Batch


@dataclass
class Prediction:
    """One row per image.

    probabilities: (B C) float32.
    index:         (B) int64, which segment was taken; None where several have a say.
    """

    probabilities: Tensor
    index: Tensor | None = None


class Selection(Protocol):
    """What the scores (B K) of a `ForegroundScore`, -inf where not valid, make of the candidates' probabilities.

    Raises:
        ValueError: scores that are NaN or of another shape, or an image without a valid segment (`WholeImageToo` gives
            every image one).
    """

    def __call__(self, candidates: Candidates, scores: Tensor) -> Prediction: ...


class Best:
    """The segment with the highest score, one per image: of exactly equal ones the first."""

    def __call__(self, candidates: Candidates, scores: Tensor) -> Prediction:
        _check(candidates, scores)
        index = scores.argmax(-1)  # the first of equal ones
        return Prediction(candidates.probabilities[0][torch.arange(len(index)), index].float(), index)


class WeightedMean:
    """Mean of the segments' probabilities, weighted by a softmax of score / temperature. Not the paper's.

    Args:
        temperature: near 0 it is `Best`, large it is the plain mean over the valid segments.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def __call__(self, candidates: Candidates, scores: Tensor) -> Prediction:
        _check(candidates, scores)
        weights = (scores / self.temperature).softmax(-1)
        return Prediction(torch.einsum("bk,bkc->bc", weights, candidates.probabilities[0].float()))


class TopKVote:
    """Each of the k segments with the highest scores votes for its most probable class. Not the paper's.

    The probabilities are (votes + mean p of the voters) / (voters + 1): the second term decides between classes with
    equally many votes and can overturn no majority. With fewer than k valid segments all of them vote.
    """

    def __init__(self, k: int = 3) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}.")
        self.k = k

    def __call__(self, candidates: Candidates, scores: Tensor) -> Prediction:
        _check(candidates, scores)
        order = scores.argsort(dim=-1, descending=True, stable=True)[:, : self.k]  # of equal scores the first
        voting = candidates.masks.valid.gather(1, order)[..., None].float()  # (B k 1)
        p = candidates.probabilities[0].float()
        p = p.gather(1, order[..., None].expand(-1, -1, p.shape[-1]))  # (B k C)
        votes = (F.one_hot(p.argmax(-1), p.shape[-1]) * voting).sum(1)
        voters = voting.sum(1)  # (B 1)
        return Prediction((votes + (p * voting).sum(1) / voters) / (voters + 1))


class WholeImageToo:
    """A mask source with the whole image as one more candidate, the last, so that every image has a valid one.

    Args:
        source: of the other masks.
    """

    def __init__(self, source: MaskSource) -> None:
        self.source = source
        self.requires = required_by(source)

    def __call__(self, batch: Batch) -> Masks:
        found = self.source(batch)
        return Masks(_with_one(found.masks), _with_one(found.scores), _with_one(found.valid))


def _with_one(values: Tensor) -> Tensor:
    """(B K ...) -> (B K+1 ...), the last all ones."""
    return torch.cat([values, values.new_ones(len(values), 1, *values.shape[2:])], dim=1)


def _check(candidates: Candidates, scores: Tensor) -> None:
    valid = candidates.masks.valid
    if scores.shape != valid.shape:
        raise ValueError(f"scores must be {tuple(valid.shape)} like the masks, got {tuple(scores.shape)}.")
    if (bare := ~valid.any(-1)).any():
        first = int(bare.byte().argmax())
        raise ValueError(f"image {first} of the batch has no valid segment; give it the whole image (WholeImageToo).")
    if scores.isnan().any():
        raise ValueError("scores must not be NaN; are the probabilities they were made of?")

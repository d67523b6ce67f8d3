"""Which of an image's segments is the foreground: a score per segment, the highest being taken for it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.masks.base import Masks


@dataclass
class Candidates:
    """What is known of the segments of B images.

    probabilities: (E B K C) of the E members of an ensemble, the first being the model that classifies; E may be 1.
                   What padding has is replaced by 0.
    masks:         the segments.
    labels:        (B) int64 true classes in 0..C-1, or None where not known.
    boxes:         (B 4) true boxes (left, top, right, bottom) in pixels, right and bottom exclusive, or None.
    """

    probabilities: Tensor
    masks: Masks
    labels: Tensor | None = None
    boxes: Tensor | None = None

    def __post_init__(self) -> None:
        images, count = self.masks.valid.shape
        shape = tuple(self.probabilities.shape)
        if len(shape) != 4 or shape[1:3] != (images, count) or 0 in (shape[0], shape[3]):
            raise ValueError(f"probabilities must be (E, {images}, {count}, C) like the masks, got {shape}.")
        self.probabilities = self.probabilities.masked_fill(~self.masks.valid[..., None], 0)  # NaN there would spread
        lowest, highest = torch.stack(self.probabilities.aminmax()).tolist() if self.probabilities.numel() else (0, 0)
        if not 0 <= lowest <= highest <= 1.01:  # false for NaN
            raise ValueError("probabilities must lie in [0, 1]; apply softmax over classes first and look for NaN.")
        if self.labels is not None:
            if self.labels.shape != (images,) or self.labels.is_floating_point():
                raise ValueError(f"labels must be ({images},) integers, got {tuple(self.labels.shape)}.")
            if images and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < shape[3]:
                raise ValueError(f"labels must be below C = {shape[3]} and not negative, got {self.labels.tolist()}.")
        if self.boxes is not None and self.boxes.shape != (images, 4):
            raise ValueError(f"boxes must be ({images}, 4), got {tuple(self.boxes.shape)}.")

    def true_labels(self) -> Tensor:
        """(B) labels.

        Raises:
            ValueError: not known.
        """
        if self.labels is None:
            raise ValueError("the true labels are needed here and these candidates have none; give `labels` (B).")
        return self.labels


class ForegroundScore(ABC):
    """A score per segment; the highest is taken for the foreground.

    uses_label: whether the true class enters. Such a score is an oracle: report it beside its chance level
                (`ocl.masks.chance`).
    name:       as in tables.
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
    """max over c of p_c: the paper's "Max Prob"."""

    name = "maximum probability"

    def score(self, candidates: Candidates) -> Tensor:
        return candidates.probabilities[0].amax(-1)


class Entropy(ForegroundScore):
    """1 - H(p), in nats."""

    name = "entropy"

    def score(self, candidates: Candidates) -> Tensor:
        return 1 - entropy(candidates.probabilities[0])


class EnsembleEntropy(ForegroundScore):
    """1 - H of the mean over the members' p, in nats: the paper's "Ens. H"."""

    name = "ensemble entropy"

    def score(self, candidates: Candidates) -> Tensor:
        return 1 - entropy(_mean_member(candidates))


class MutualInformation(ForegroundScore):
    """1 - I, I = H(mean over members of p) - mean over members of H(p), in nats: how far the members agree.

    Not among the paper's scores.
    """

    name = "mutual information"

    def score(self, candidates: Candidates) -> Tensor:
        if len(candidates.probabilities) < 2:
            raise ValueError("mutual information compares the members of an ensemble; one alone has none. Give E >= 2.")
        return 1 - entropy(_mean_member(candidates)) + entropy(candidates.probabilities).mean(0)


class SizePrior(ForegroundScore):
    """Share of the image's pixels. Not the paper's."""

    name = "size"

    def score(self, candidates: Candidates) -> Tensor:
        masks = candidates.masks.masks
        return _area(masks) / max(masks.shape[-2] * masks.shape[-1], 1)


class CentrePrior(ForegroundScore):
    """1 - distance of the segment's centre of mass from the image's centre, as a share of half the diagonal: 1 at the
    centre, near 0 in a corner. Not the paper's."""

    name = "centre"

    def score(self, candidates: Candidates) -> Tensor:
        masks = candidates.masks.masks
        height, width = masks.shape[-2:]
        area = _area(masks).clamp(min=1e-6)
        columns, rows = masks.sum(-2, dtype=torch.float32), masks.sum(-1, dtype=torch.float32)
        x = (columns * _centred(width, masks)).sum(-1) / area
        y = (rows * _centred(height, masks)).sum(-1) / area
        return 1 - torch.hypot(x, y) / (0.5 * math.hypot(height, width))


class BorderPrior(ForegroundScore):
    """1 - share of the image's outermost pixels that the segment covers: backgrounds reach them. Not the paper's."""

    name = "border"

    def score(self, candidates: Candidates) -> Tensor:
        masks = candidates.masks.masks
        inner = masks[..., 1:-1, 1:-1]
        pixels = masks.shape[-2] * masks.shape[-1] - inner.shape[-2] * inner.shape[-1]
        return 1 - (_area(masks) - _area(inner)) / pixels


class BoxIoU(ForegroundScore):
    """Intersection over union of the segment's pixels and the true box: needs `boxes`, so it is an oracle of place."""

    name = "IoU with the true box"

    def score(self, candidates: Candidates) -> Tensor:
        if candidates.boxes is None:
            raise ValueError("the true boxes are needed here and these candidates have none; give `boxes` (B 4).")
        masks = candidates.masks.masks
        left, top, right, bottom = candidates.boxes[..., None].unbind(1)  # each (B 1)
        x, y = (torch.arange(length, device=masks.device) + 0.5 for length in (masks.shape[-1], masks.shape[-2]))
        inside = ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None]  # (B H W)
        shared = torch.einsum("bkhw,bhw->bk", masks.float(), inside.float())
        union = _area(masks) + inside.sum((1, 2))[:, None] - shared
        return shared / union.clamp(min=1)


class ClassAided(ForegroundScore):
    """p_y of the true label y: the paper's "Class-Aided", an oracle with a high chance level where C is small."""

    uses_label = True
    name = "class-aided"

    def score(self, candidates: Candidates) -> Tensor:
        index = candidates.true_labels()[:, None, None].expand(-1, candidates.masks.valid.shape[1], 1)
        return candidates.probabilities[0].gather(-1, index)[..., 0]


def any_mask_correct(candidates: Candidates) -> Tensor:
    """(B) bool: is the true label the most probable class of at least one valid segment? No selection does better."""
    right = candidates.probabilities[0].argmax(-1) == candidates.true_labels()[:, None]
    return (right & candidates.masks.valid).any(-1)


def entropy(probabilities: Tensor) -> Tensor:
    """(... C) -> (...) float32 in nats, with 0 log 0 = 0; finite also for halves."""
    surprise: Tensor = torch.special.entr(probabilities.float())
    return surprise.sum(-1)


def _mean_member(candidates: Candidates) -> Tensor:
    return candidates.probabilities.float().mean(0)


def _area(masks: Tensor) -> Tensor:
    """(B K h w) -> (B K) float32."""
    return masks.sum((-2, -1), dtype=torch.float32)


def _centred(length: int, like: Tensor) -> Tensor:
    """Pixel centres, seen from the middle."""
    return torch.arange(length, device=like.device) - (length - 1) / 2

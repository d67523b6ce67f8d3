"""How well logits tell pairs of one object from pairs of two, image by image.

Images differ so much (the share of "different" pairs varies with a deviation of 0.17 between photographs) that every
measure is taken per image, averaged over images, and bootstrapped over images. A pair counts once, i < j; a patch with
itself never counts. Where a measure is undefined (an image with one object has no pair of two) the image is dropped
from that measure and the number of images says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.metrics.image_mean import PerImage

MEASURES = ("accuracy", "balanced_accuracy", "auc", "average_precision")
HARD_MEASURES = ("hard_accuracy", "hard_auc")


def pair_measures(
    logits: Tensor,
    same: Tensor,
    counted: Tensor,
    *,
    hard: Tensor | None = None,
    bands: Tensor | None = None,
) -> dict[str, PerImage]:
    """Measures of every image, each (... B) float64.

    "accuracy" and "balanced_accuracy" (mean of the accuracies on same and on different pairs) answer "same" above logit
    0; "auc" is the chance that a same pair scores above a different one, ties half; "average_precision" is the area
    under precision and recall by steps at distinct scores. With `hard`: "hard_accuracy", the share of its pairs that
    are answered "different", and "hard_auc", same pairs against those different ones only: a probe that reads classes
    scores 0 and 0.5. With `bands`: "distance_matched_auc", where a same pair is compared with the different pairs of
    its own band only (the bands' AUCs, weighted with how many comparisons each holds): what is left where distance
    cannot help.

    Args:
        logits: (... B n n) symmetric, any number of leading axes (layers).
        same: (B n n) bool targets.
        counted: (B n n) bool, symmetric; read above the diagonal.
        hard: (B n n) bool, different objects of one class.
        bands: (B n n) int64 number of the distance band; negative in none.

    Raises:
        ValueError: shapes that do not belong together, or a logit that is NaN.
    """
    size = same.shape[-1]
    for name, values in (
        ("counted", counted),
        ("hard", hard),
        ("bands", bands),
        ("logits", logits[(0,) * (logits.ndim - 3)]),
    ):
        if values is not None and values.shape != same.shape:
            raise ValueError(f"{name} must be {tuple(same.shape)} like the targets, got {tuple(values.shape)}.")
    row, column = torch.triu_indices(size, size, offset=1, device=same.device)
    scores = logits[..., row, column]  # (... B P)
    if scores.isnan().any():
        raise ValueError("A logit is NaN: are all tokens finite?")
    use = counted[:, row, column]
    positive = (use & same[:, row, column]).expand_as(scores)
    negative = (use & ~same[:, row, column]).expand_as(scores)

    right = (scores > 0) == positive
    on_same, on_different = _share(right, positive), _share(right, negative)
    both = on_same.counted & on_different.counted
    found = {
        "accuracy": _share(right, positive | negative),
        "balanced_accuracy": PerImage((on_same.values + on_different.values) / 2 * both, both),
        "auc": area_under_curve(scores, positive, negative),
        "average_precision": average_precision(scores, positive, negative),
    }
    if hard is not None:
        twins = negative & hard[:, row, column]
        found["hard_accuracy"] = _share(right, twins)
        found["hard_auc"] = area_under_curve(scores, positive, twins)
    if bands is not None:
        band = bands[:, row, column]
        found["distance_matched_auc"] = _matched_area(scores, positive, negative, band)
    return found


def area_under_curve(scores: Tensor, positive: Tensor, negative: Tensor) -> PerImage:
    """(... P) each -> (...): the area under the ROC curve, ties half. Undefined without a positive or a negative."""
    above, comparisons = _comparisons(scores, positive, negative)
    return PerImage(above / comparisons.clamp(min=1), comparisons > 0)


def average_precision(scores: Tensor, positive: Tensor, negative: Tensor) -> PerImage:
    """(... P) each -> (...): mean over positives of the precision at their own score. Undefined without a positive."""
    hits = _at_least(scores, positive)
    precision = hits / (hits + _at_least(scores, negative)).clamp(min=1)
    return _share(precision, positive)


def _comparisons(scores: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """How many (positive, negative) comparisons come out right, ties half, and how many there are; (...) float64."""
    ordered = scores.masked_fill(~negative, torch.inf).sort(-1).values
    negatives = negative.sum(-1, keepdim=True)
    below = torch.searchsorted(ordered, scores.contiguous())
    # those that are no negatives stand behind as infinities: a score of infinity must not count them
    not_above = torch.minimum(torch.searchsorted(ordered, scores.contiguous(), right=True), negatives)
    right = ((below + not_above) * positive).sum(-1).double() / 2
    return right, positive.sum(-1).double() * negatives[..., 0]


def _at_least(scores: Tensor, chosen: Tensor) -> Tensor:
    """(... P) -> (... P) float64: how many of the chosen score at least as high."""
    ordered = (-scores).masked_fill(~chosen, torch.inf).sort(-1).values
    reached = torch.searchsorted(ordered, (-scores).contiguous(), right=True)
    return torch.minimum(reached, chosen.sum(-1, keepdim=True)).double()


def _matched_area(scores: Tensor, positive: Tensor, negative: Tensor, band: Tensor) -> PerImage:
    above = torch.zeros(scores.shape[:-1], dtype=torch.float64, device=scores.device)
    comparisons = torch.zeros_like(above)
    for number in band[band >= 0].unique().tolist():
        inside = band == number
        right, of = _comparisons(scores, positive & inside, negative & inside)
        above, comparisons = above + right, comparisons + of
    return PerImage(above / comparisons.clamp(min=1), comparisons > 0)


def _share(values: Tensor, among: Tensor) -> PerImage:
    count = among.sum(-1)
    return PerImage((values * among).double().sum(-1) / count.clamp(min=1), count > 0)


@dataclass(frozen=True)
class Interval:
    """A mean over images with its bootstrap interval.

    value, low, high: NaN where no image counts.
    images: how many images counted; dropped: how many did not, because the measure is undefined there.
    """

    value: float
    low: float
    high: float
    images: int
    dropped: int


def over_images(measure: PerImage, resamples: int = 1000, coverage: float = 0.95, seed: int = 0) -> Interval:
    """Mean over the B images where the measure is defined, with a percentile bootstrap over them.

    Args:
        measure: (B) of one layer.
        resamples: of the bootstrap.
        coverage: of the interval.
        seed: of the resamples.
    """
    values = measure.values[measure.counted].double().cpu()
    dropped = len(measure.values) - len(values)
    if not len(values):
        return Interval(torch.nan, torch.nan, torch.nan, 0, dropped)
    generator = torch.Generator().manual_seed(seed)
    means = values[torch.randint(len(values), (resamples, len(values)), generator=generator)].mean(1)
    tail = (1 - coverage) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(values.mean()), low, high, len(values), dropped)


def summarise(
    measures: Mapping[str, PerImage], resamples: int = 1000, coverage: float = 0.95, seed: int = 0
) -> dict[str, list[Interval]]:
    """Each measure (L B) -> one `Interval` per layer."""
    return {
        name: [
            over_images(PerImage(values, counted), resamples, coverage, seed)
            for values, counted in zip(measure.values, measure.counted, strict=True)
        ]
        for name, measure in measures.items()
    }

"""One answer per image for every way to score and select segments, over a whole data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.masks.base import MaskSource
from ocl.masks.filters import Filters
from ocl.masks.foreground import Candidates, ForegroundScore, any_mask_correct
from ocl.masks.segments import SegmentClassifier
from ocl.masks.selection import Selection
from ocl.occam.labels import boxes_of, groups_of, labels_of
from ocl.shapes import Batch

Way = tuple[str, str]
"""Names of a foreground score and of a selection."""


@dataclass(frozen=True)
class SourceAnswers:
    """What the segments of one source made of n images; all on the CPU.

    labels, groups:  (n) int64.
    counts:          (n) int64, segments that each image chose from, at least 1.
    without:         (n) bool, images to which the source gave no segment, so that the whole image stood in.
    any_correct:     (n) bool, some segment is classified right: no selection of one segment does better.
    predictions:     way -> (n) int64.
    """

    labels: Tensor
    groups: Tensor
    counts: Tensor
    without: Tensor
    any_correct: Tensor
    predictions: Mapping[Way, Tensor]


def answer(
    batches: Iterable[Batch],
    source: MaskSource,
    classifier: SegmentClassifier,
    scores: Sequence[ForegroundScore],
    selections: Mapping[str, Selection],
) -> SourceAnswers:
    """Classify all segments once, then select among them in every way. Read `batches` once."""
    parts: list[SourceAnswers] = []
    for batch in batches:
        candidates, without = candidates_of(batch, source, classifier)
        predictions: dict[Way, Tensor] = {}
        for score in scores:
            values = score(candidates)
            for name, selection in selections.items():
                predictions[score.name, name] = selection(candidates, values).probabilities.argmax(-1).cpu()
        parts.append(
            SourceAnswers(
                candidates.true_labels().cpu(),
                groups_of(batch).cpu(),
                candidates.masks.valid.sum(1).cpu(),
                without.cpu(),
                any_mask_correct(candidates).cpu(),
                predictions,
            )
        )
    if not parts:
        raise ValueError("the study was given no images.")
    return SourceAnswers(
        torch.cat([part.labels for part in parts]),
        torch.cat([part.groups for part in parts]),
        torch.cat([part.counts for part in parts]),
        torch.cat([part.without for part in parts]),
        torch.cat([part.any_correct for part in parts]),
        {way: torch.cat([part.predictions[way] for part in parts]) for way in parts[0].predictions},
    )


def candidates_of(batch: Batch, source: MaskSource, classifier: SegmentClassifier) -> tuple[Candidates, Tensor]:
    """The classified segments of a batch, and (B) bool the images whose only segment is the whole image that stands in
    where the source gave none.

    Raises:
        ValueError: a class that the classifier does not have.
    """
    labels, count = labels_of(batch), len(classifier.classes)
    if int(labels.max()) >= count or int(labels.min()) < 0:
        raise ValueError(
            f"the data set has the class {int(labels.max())}, the classifier knows 0..{count - 1}: "
            f"{', '.join(classifier.classes[:5])}."
        )
    found = source(batch)
    masks = Filters([])(found)
    probabilities = classifier(batch.images, masks)
    return Candidates(probabilities, masks, labels, boxes_of(batch)), ~found.valid.any(dim=1)

"""Answers -> the rows of results.json: accuracy, worst group and gap, with what luck and an oracle would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ocl.masks.chance import any_correct_chance, class_aided_chance
from ocl.masks.foreground import BoxIoU, ForegroundScore
from ocl.metrics.groups import Answers, GroupCounts, Interval, overall, worst_group
from ocl.occam.answers import SourceAnswers

Row = dict[str, Any]
"""seed, source, score, selection, oracle ("class", "place" or ""), measure, value, low, high, images."""

ONLY = "-"
"""Score and selection where every image has one segment: all of them agree."""


def rows_of(
    source: str,
    answers: SourceAnswers,
    scores: Sequence[ForegroundScore],
    classes: Sequence[str],
    group_names: Sequence[str],
    seed: int,
    group_ratios: Sequence[float] | None = None,
) -> list[Row]:
    """Measures of every way to score and select, each over all images once.

    "gap" is accuracy minus worst group. "any correct" is the share of images with a segment that is classified right.
    "chance" is given for scores that use the label (of class-aided selection on random logits, for the observed number
    of segments and classes) and "above chance" is what accuracy has over it. "whole image instead" is the share of
    images to which the source gave no segment. "group: <name>" is the accuracy of one group. "in-distribution" weighs
    the groups by `group_ratios`, where these are known.
    """
    oracle = {score.name: _oracle(score) for score in scores}
    single = bool((answers.counts == 1).all())
    ways = [next(iter(answers.predictions))] if single else list(answers.predictions)
    rows: list[Row] = []
    for way in ways:
        predictions = answers.predictions[way]
        score, selection = (ONLY, ONLY) if single else way
        counts = _counted(predictions, answers).by(answers.groups, group_names)
        figures = _accuracies(counts) | {
            "class mean": _counted(predictions, answers).by_class(classes).mean(),
            "segments": _plain(float(answers.counts.double().mean()), len(predictions)),
            "whole image instead": _plain(float(answers.without.double().mean()), len(predictions)),
            "any correct": _share(answers.any_correct),
        }
        if group_ratios is not None:
            figures["in-distribution"] = counts.weighted(group_ratios)
        label = "" if single else oracle[way[0]]
        if label == "class":
            chance = class_aided_chance(answers.counts, len(classes))
            accuracy = figures["accuracy"]
            figures["chance"] = _plain(chance, len(predictions))
            figures["any correct by chance"] = _plain(
                any_correct_chance(answers.counts, len(classes)), len(predictions)
            )
            figures["above chance"] = Interval(
                accuracy.value - chance, accuracy.low - chance, accuracy.high - chance, accuracy.images
            )
        figures |= {f"group: {name}": interval for name, interval in counts.accuracies().items()}
        about = {"seed": seed, "source": source, "score": score, "selection": selection, "oracle": label}
        rows += [about | {"measure": name} | asdict(interval) for name, interval in figures.items()]
    return rows


def _accuracies(counts: GroupCounts) -> dict[str, Interval]:
    return {
        "accuracy": counts.accuracy(),
        "worst group": counts.worst(),
        "gap": counts.interval(lambda right, total: overall(right, total) - worst_group(right, total)),
    }


def _counted(predictions: Tensor, answers: SourceAnswers) -> Answers:
    return Answers([str(index) for index in range(len(predictions))], predictions, answers.labels)


def _share(right: Tensor) -> Interval:
    total = torch.tensor([len(right)])
    return GroupCounts(("all",), right.sum().view(1), total).accuracy()


def _plain(value: float, images: int) -> Interval:
    return Interval(value, value, value, images)


def _oracle(score: ForegroundScore) -> str:
    if score.uses_label:
        return "class"
    return "place" if isinstance(score, BoxIoU) else ""

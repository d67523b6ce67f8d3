"""Probes and controls -> the rows of results.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ocl.binding.controls import LogisticControl, all_different, by_labels, colour_distances
from ocl.binding.measures import pair_measures, summarise
from ocl.binding.pairs import distance_bands, distances, hard_pairs
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.probes import PairProbe
from ocl.metrics.image_mean import PerImage

Row = dict[str, Any]
"""model, probe, place, chosen, measure, value, low, high, images, dropped.

`chosen` marks the place of a model and probe with the least loss on held-out training images.
"""

ONLY = "-"
"""Model and place of a control."""
BANDS = (0.0, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5)
"""Distances in patches within which the distance-matched AUC compares pairs. Ours."""
ALL_DIFFERENT, POSITION, COLOUR, BOTH = "all different", "position", "colour", "position + colour"
CLASS_ORACLE, HUMAN = "class oracle", "another person"


@torch.no_grad()
def measured(logits: Callable[[Patches, Tensor], Tensor], patches: Patches, batch: int = 32) -> dict[str, PerImage]:
    """Every measure (... B) of `logits`: the patches of some images and their numbers (b) -> (... b n n)."""
    parts = []
    for images in torch.arange(len(patches), device=patches.tokens.device).split(batch):
        part = patches.take(images)
        hard = None if part.classes is None else hard_pairs(part)
        bands = None if part.places is None else distance_bands(part, BANDS)
        parts.append(pair_measures(logits(part, images), part.same, distinct_pairs(part), hard=hard, bands=bands))
    return {
        name: PerImage(*(torch.cat([part[name][side] for part in parts], dim=-1) for side in (0, 1)))
        for name in parts[0]
    }


def probe_rows(
    model: str, name: str, probe: PairProbe, best: int, places: Sequence[str], patches: Patches, seed: int = 0
) -> list[Row]:
    """One row per place and measure."""
    found = summarise(measured(lambda part, _: probe(part.tokens), patches), seed=seed)
    return [
        {"model": model, "probe": name, "place": place, "chosen": number == best, "measure": measure}
        | asdict(intervals[number])
        for number, place in enumerate(places)
        for measure, intervals in found.items()
    ]


def control_rows(
    training: Patches,
    training_colours: Tensor,
    test: Patches,
    test_colours: Tensor,
    others: Tensor | None = None,
    seed: int = 0,
) -> list[Row]:
    """What the same pairs say without a model: see `ocl.binding.controls`.

    Args:
        training_colours, test_colours: (B n 3).
        others: (B n), what another person says the test patches show.
    """
    features = {
        POSITION: lambda patches, colours: distances(patches)[..., None],
        COLOUR: lambda patches, colours: colour_distances(colours)[..., None],
        BOTH: lambda patches, colours: torch.stack([distances(patches), colour_distances(colours)], dim=-1),
    }
    answers: dict[str, Tensor] = {ALL_DIFFERENT: all_different(test.objects)}
    counted = distinct_pairs(training)
    for name, of in features.items():
        control = LogisticControl().fit(of(training, training_colours), training.same, counted)
        answers[name] = control(of(test, test_colours))
    if test.classes is not None:  # background is one class of its own
        answers[CLASS_ORACLE] = by_labels(test.classes.masked_fill(test.objects == 0, int(test.classes.max()) + 1))
    if others is not None:
        answers[HUMAN] = by_labels(others)
    return [row for name, logits in answers.items() for row in _control(name, logits, test, seed)]


def _control(name: str, logits: Tensor, patches: Patches, seed: int) -> list[Row]:
    found = summarise(measured(lambda _, images: logits[None, images], patches), seed=seed)
    about = {"model": ONLY, "probe": name, "place": ONLY, "chosen": True}
    return [about | {"measure": measure} | asdict(intervals[0]) for measure, intervals in found.items()]


def value_of(rows: Sequence[Row], **wanted: str) -> Row | None:
    """The first row with these entries, None where there is none."""
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def lines_of(rows: Sequence[Row]) -> Mapping[tuple[str, str], list[Row]]:
    """(model, probe) -> its rows, in order of appearance."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["probe"]), []).append(row)
    return found

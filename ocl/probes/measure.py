"""Measure on held-out images what probes read out of slots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from ocl.matching import optimal_assignment
from ocl.metrics.properties import accuracy, balanced_accuracy, r_squared
from ocl.probes.fit import BATCH, PROBES, Examples, PropertyProbe, fit
from ocl.probes.labelled import LabelledSlots
from ocl.probes.likelihood import Properties
from ocl.probes.report import ProbeReport, ProbeRow


@torch.no_grad()
def answer(
    probe: PropertyProbe, slots: LabelledSlots, properties: Properties, one_to_one: bool = False
) -> tuple[Tensor, Tensor]:
    """The answer of every slot of the image, and how much it counts, for each visible object.

    Returns:
        outputs (objects K width) and weight (objects K), which sums to 1, or to 0 where the object has no slot.
    """
    answers, weights = [], []
    for images in torch.arange(len(slots)).split(BATCH):
        part = Examples.of(slots.take(images), properties)
        outputs, cost = probe(part)
        weight = torch.softmax(-cost.mT, dim=2)  # (b M K), p(slot | object)
        if slots.pairs is not None or one_to_one:
            slot, matched = part.slot, part.matched
            if slots.pairs is None:
                slot, matched = optimal_assignment(cost.mT, part.visible, part.valid)
            weight = functional.one_hot(slot, outputs.shape[1]) * matched[:, :, None]
        weight = weight * part.valid[:, None]
        answers.append(outputs[:, None].expand(-1, weight.shape[1], -1, -1)[part.visible])
        weights.append(weight[part.visible])
    return torch.cat(answers), torch.cat(weights)


def probe_properties(
    train: LabelledSlots,
    test: LabelledSlots,
    names: Sequence[str] | None = None,
    probes: Mapping[str, Callable[[int, int], nn.Module]] = PROBES,
    one_to_one: bool = False,
    seed: int = 0,
) -> ProbeReport:
    """Fit each probe on `train`, all properties together, and measure every property on `test`.

    Quantities are scored with R2 against the mean of the test objects, averaged over their dimensions; categories with
    accuracy and balanced accuracy. Angles count as plain numbers: leave them out with `names` where they wrap, or give
    their sine and cosine.

    Args:
        names: the properties to probe; all but "visible" where None. Those that never vary in training are left out.
        probes: name -> (slot dimension, number of outputs) -> module.
        one_to_one: without pairs, score the slot of the optimal assignment instead of the expectation over
            p(slot | object). The convention of most published figures; too kind to slots that know little.

    Raises:
        ValueError: `train` and `test` that do not agree, too few images or objects, or nothing to probe.
    """
    if train.vectors.shape[2] != test.vectors.shape[2] or set(train.objects) != set(test.objects):
        raise ValueError(
            f"train and test must agree: slots of {train.vectors.shape[2]} and {test.vectors.shape[2]} dimensions, "
            f"properties {sorted(train.objects)} and {sorted(test.objects)}."
        )
    if (train.pairs is None) != (test.pairs is None):
        raise ValueError("train and test must both be paired by masks, or neither.")
    for name, slots in (("train", train), ("test", test)):
        if len(slots) < 2 or not slots.visible.any() or not slots.valid.any():
            raise ValueError(f"{name} must hold at least two images, a visible object and a valid slot.")
    properties = Properties(train.objects, names)
    other = len(test) // 2  # far away in the set, where it holds an episode in order
    strangers = replace(test, vectors=test.vectors.roll(other, 0), valid=test.valid.roll(other, 0))
    rows: list[ProbeRow] = []
    for name, make in probes.items():
        probe = fit(make, train, properties, seed)
        real = score(*answer(probe, test, properties, one_to_one), test.objects, properties)
        shuffled = score(*answer(probe, strangers, properties, one_to_one), test.objects, properties)
        for (property, measure), (value, chance) in real.items():
            rows.append(ProbeRow(property, name, measure, value, shuffled[property, measure][0], chance))
    rows.sort(key=lambda row: (row.property, row.measure))  # stable: probes stay in their order
    pairing = "masks" if test.pairs is not None else "optimal assignment" if one_to_one else "likelihood"
    return ProbeReport(rows, pairing, len(train), len(test), int(test.visible.sum()))


def score(
    outputs: Tensor, weight: Tensor, objects: Mapping[str, Tensor], properties: Properties
) -> dict[tuple[str, str], tuple[float, float]]:
    """(property, measure) -> (value, chance), from what `answer` returns."""
    visible = objects["visible"]
    rows = {}
    for name, quantity in properties.quantities.items():
        target = properties.varying(name, objects[name])[visible]
        answers = outputs[:, :, quantity.columns] * quantity.deviation + quantity.mean
        rows[name, "r2"] = _expected(r_squared, answers, weight, quantity.mean.expand_as(target), target)
    logits = outputs[:, :, properties.quantity_columns :].split(properties.classes, dim=2)
    for (name, category), logit in zip(properties.categories.items(), logits, strict=True):
        target = objects[name][visible].long()
        majority = torch.full_like(target, category.majority)
        rows[name, "accuracy"] = _expected(accuracy, logit.argmax(2), weight, majority, target)
        rows[name, "balanced_accuracy"] = _expected(balanced_accuracy, logit.argmax(2), weight, majority, target)
    return rows


def _expected(
    function: Callable[..., Tensor], answers: Tensor, weight: Tensor, chance: Tensor, target: Tensor
) -> tuple[float, float]:
    """The measure of the weighted answers (objects K ...), where weight that no slot takes goes to the answer of chance
    (objects ...); and the measure of chance alone."""
    weight = torch.cat([weight, 1 - weight.sum(1, keepdim=True)], dim=1)  # (objects K+1)
    answers = torch.cat([answers, chance[:, None]], dim=1)
    targets = target[:, None].expand_as(answers)
    value = function(answers.flatten(0, 1), targets.flatten(0, 1), weight.flatten())
    return float(value), float(function(chance, target))

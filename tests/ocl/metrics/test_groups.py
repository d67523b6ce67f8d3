"""Accuracies by group against hand tables, and intervals against resampling the images themselves."""

import math

import numpy as np
import pytest
import torch

from ocl.metrics.groups import Answers, worst_group


def answers(table):
    """{group: (right, total)} -> answers of two-class images and their groups, in a mixed order."""
    rows = [(g, n < right) for g, (right, total) in enumerate(table.values()) for n in range(total)]
    order = torch.randperm(len(rows))
    groups = torch.tensor([g for g, _ in rows])[order]
    right = torch.tensor([hit for _, hit in rows])[order]
    labels = torch.randint(0, 2, (len(rows),))
    images = [f"image {n}" for n in range(len(rows))]
    return Answers(images, torch.where(right, labels, 1 - labels), labels), groups


TABLE = {"land on land": (90, 100), "land on water": (30, 50), "water on land": (7, 10), "water on water": (40, 40)}


def counts():
    found, groups = answers(TABLE)
    return found.by(groups, list(TABLE))


def test_a_hand_table():
    found = counts()
    assert {name: interval.value for name, interval in found.accuracies().items()} == {
        "land on land": 0.9,
        "land on water": 0.6,
        "water on land": 0.7,
        "water on water": 1.0,
    }
    assert [interval.images for interval in found.accuracies().values()] == [100, 50, 10, 40]
    assert found.accuracy().value == pytest.approx(167 / 200)
    assert found.mean().value == pytest.approx(0.8)
    assert found.worst().value == 0.6
    assert found.weighted([0.7, 0.1, 0.1, 0.1]).value == pytest.approx(0.63 + 0.06 + 0.07 + 0.1)


def test_a_class_without_a_hit_counts_in_the_per_class_mean():
    """Five classes .9 .8 0 .7 0: averaging only those with a hit would give 0.80."""
    labels = torch.arange(5).repeat_interleave(10)
    hits = torch.tensor([n < right for right in (9, 8, 0, 7, 0) for n in range(10)])
    found = Answers([str(n) for n in range(50)], torch.where(hits, labels, (labels + 1) % 5), labels)
    by_class = found.by_class(["a", "b", "c", "d", "e"])
    assert by_class.mean().value == pytest.approx(0.48)
    assert by_class.worst().value == 0
    # Classes that the test set does not have are no zeros.
    assert found.by_class(["a", "b", "c", "d", "e", "absent"]).mean().value == pytest.approx(0.48)


def test_a_gap_comes_with_both_subsets():
    found, groups = answers({"common": (854, 1000), "counter": (704, 1000)})
    gap = found.by(groups, ["common", "counter"]).gap("common", "counter")
    assert gap["common"].value == 0.854
    assert gap["counter"].value == 0.704
    assert gap["gap"].value == pytest.approx(0.15)
    assert gap["gap"].low < 0.15 < gap["gap"].high
    error = 1.96 * math.sqrt(0.854 * 0.146 / 1000 + 0.704 * 0.296 / 1000)
    assert gap["gap"].high - gap["gap"].low == pytest.approx(2 * error, rel=0.1)


def test_intervals_equal_those_of_resampled_images():
    """The multinomial over (group, right) is the bootstrap over images: the same quantiles, drawn the plain way."""
    found, groups = answers(TABLE)
    right = (found.predictions == found.labels).numpy()
    generator, plain = np.random.default_rng(1), []
    for _ in range(4000):
        drawn = generator.integers(len(right), size=len(right))
        shares = [right[drawn][groups.numpy()[drawn] == g].mean() for g in range(4)]
        plain.append((right[drawn].mean(), np.mean(shares), min(shares)))
    low, high = np.percentile(np.array(plain), [2.5, 97.5], axis=0)
    table = found.by(groups, list(TABLE))
    for number, measure in enumerate((lambda r, t: r.sum(-1) / t.sum(-1), lambda r, t: (r / t).mean(-1), worst_group)):
        interval = table.interval(measure, resamples=4000)
        assert interval.low == pytest.approx(low[number], abs=0.012)
        assert interval.high == pytest.approx(high[number], abs=0.012)
    assert table.worst() == table.worst()  # seeded


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for trial in range(300):
        generator = torch.Generator().manual_seed(trial)
        hits = torch.rand(400, generator=generator) < 0.8
        labels = torch.ones(400, dtype=torch.long)
        found = Answers([str(n) for n in range(400)], hits.long(), labels).by(torch.zeros_like(labels), ["all"])
        interval = found.accuracy()
        held += interval.low <= 0.8 <= interval.high
    assert 0.91 <= held / 300 <= 0.98


def test_groups_without_images_are_left_out():
    found = counts().__class__(("full", "bare"), torch.tensor([3, 0]), torch.tensor([4, 0]))
    assert found.worst().value == found.mean().value == 0.75
    assert math.isnan(found.accuracies()["bare"].value)
    assert math.isnan(found.accuracies()["bare"].low)
    assert found.worst().low >= 0.0
    assert found.weighted([1.0, 0.0]).value == 0.75
    with pytest.raises(ValueError, match="bare has a ratio but no image"):
        found.weighted([0.5, 0.5])
    nothing = counts().__class__(("bare",), torch.tensor([0]), torch.tensor([0]))
    assert math.isnan(nothing.worst().value)
    assert nothing.accuracy().images == 0


def test_images_of_no_group_are_left_out():
    found, groups = answers(TABLE)
    kept = found.by(groups.masked_fill(groups == 1, -1), list(TABLE))
    assert kept.accuracy().value == pytest.approx(137 / 150)
    assert kept.accuracy().images == 150


def test_every_image_is_counted_once():
    labels = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"bird\.jpg is there 2 times"):
        Answers(["a", "bird.jpg", "b", "bird.jpg"], labels, labels)
    for wrong in (labels[:3], labels[None]):
        with pytest.raises(ValueError, match="one prediction and one label per image"):
            Answers(["a", "b", "c", "d"], wrong, labels)
    with pytest.raises(ValueError, match="at least one image"):
        Answers([], labels[:0], labels[:0])


def test_wrong_groups_ratios_and_names_are_refused():
    found, groups = answers(TABLE)
    with pytest.raises(ValueError, match=r"groups must be in -1\.\.2"):
        found.by(groups, list(TABLE)[:3])
    with pytest.raises(ValueError, match="one per image"):
        found.by(groups[1:], list(TABLE))
    for ratios in ([1.0], [0.5, 0.5, 0.5, -0.5], [0.3, 0.3, 0.3, 0.3]):
        with pytest.raises(ValueError, match="ratios must be"):
            counts().weighted(ratios)
    with pytest.raises(ValueError, match="no group sky"):
        counts().gap("land on land", "sky")


def test_probabilities_and_groups_of_one_name_are_refused():
    labels = torch.tensor([0, 1])
    for wrong in (labels.float(), torch.tensor([torch.nan, 0.0])):
        with pytest.raises(ValueError, match="take the argmax"):
            Answers(["a", "b"], wrong, labels)
    with pytest.raises(ValueError, match="every group needs a name of its own"):
        Answers(["a", "b"], labels, labels).by(labels, ["same", "same"])

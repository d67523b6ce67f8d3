"""Measures of pairs against scikit-learn, image by image, ties and all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score
from torch import Tensor

from ocl.binding.controls import all_different, by_labels
from ocl.binding.measures import over_images, pair_measures, summarise
from ocl.binding.pairs import hard_pairs
from ocl.binding.patches import Patches, distinct_pairs
from ocl.metrics.image_mean import PerImage

L, B, N = 3, 40, 24


def scene(objects: int = 4, images: int = B) -> Patches:
    """Objects 0 and 1 share a class; some patches are unknown."""
    labels = torch.randint(-1, objects, (images, N))
    classes = (labels - 1).clamp(min=0).masked_fill(labels < 0, -1)
    return Patches(torch.randn(1, images, N, 2), labels, classes)


def scores(same: Tensor, levels: float = 4) -> Tensor:
    """(L B N N) symmetric logits that know a little, in coarse steps: full of ties."""
    noise = torch.randn(L, *same.shape)
    return ((noise + noise.mT + 2 * same - 1) * levels).round() / levels


def test_agrees_with_scikit_learn() -> None:
    patches = scene()
    counted, hard, same = distinct_pairs(patches), hard_pairs(patches), patches.same
    bands = torch.randint(-1, 4, (B, N, N)).tril(-1)
    bands = bands + bands.mT
    logits = scores(same)
    assert logits[0].unique().numel() < 100
    found = pair_measures(logits, same, counted, hard=hard, bands=bands)
    assert all(measure.values.shape == (L, B) for measure in found.values())
    for layer in range(L):
        for image in range(B):
            use = counted[image].triu(1)
            truth, score = same[image][use].numpy(), logits[layer, image][use].numpy()

            def check(name: str, expected: float, at: tuple[int, int] = (layer, image)) -> None:
                assert found[name].counted[at]
                assert abs(found[name].values[at] - expected) < 1e-12, name

            check("accuracy", accuracy_score(truth, score > 0))
            check("balanced_accuracy", balanced_accuracy_score(truth, score > 0))
            check("auc", roc_auc_score(truth, score))
            check("average_precision", average_precision_score(truth, score))
            twins = hard[image][use].numpy()
            check("hard_accuracy", (score[twins] <= 0).mean())
            kept = truth | twins
            check("hard_auc", roc_auc_score(truth[kept], score[kept]))
            inside, right, comparisons = bands[image][use].numpy(), 0.0, 0
            for band in range(4):
                one, two = score[(inside == band) & truth], score[(inside == band) & ~truth]
                right += ((one[:, None] > two) + (one[:, None] == two) / 2).sum()
                comparisons += len(one) * len(two)
            check("distance_matched_auc", right / comparisons)


def test_one_band_is_the_whole_and_infinite_scores_count() -> None:
    patches = scene()
    logits = scores(patches.same).masked_fill(patches.same & (torch.rand(B, N, N) < 0.2), torch.inf)
    logits = torch.maximum(logits, logits.mT)
    found = pair_measures(logits, patches.same, distinct_pairs(patches), bands=torch.zeros(B, N, N, dtype=torch.int64))
    torch.testing.assert_close(found["distance_matched_auc"], found["auc"], rtol=0, atol=0)
    use = distinct_pairs(patches)[0].triu(1)
    finite = logits[0, 0][use].clamp(max=1e6)
    expected = roc_auc_score(patches.same[0][use], finite)
    assert abs(found["auc"].values[0, 0] - expected) < 1e-12
    expected = average_precision_score(patches.same[0][use], finite)
    assert abs(found["average_precision"].values[0, 0] - expected) < 1e-12


def test_the_diagonal_never_counts_and_would_add_what_is_predicted() -> None:
    """N free hits among N (N + 1) / 2 pairs: at 64 patches 3.1 % of them."""
    objects = torch.randint(5, (B, 64))
    patches = Patches(torch.zeros(1, B, 64, 1), objects)
    logits, counted = scores(patches.same), distinct_pairs(patches)
    accuracy = pair_measures(logits, patches.same, counted)["accuracy"].values
    for value in (-9.0, 9.0):
        changed = logits.clone()
        changed.diagonal(dim1=2, dim2=3).fill_(value)
        assert torch.equal(pair_measures(changed, patches.same, counted)["accuracy"].values, accuracy)
    row, column = torch.triu_indices(64, 64)  # with the diagonal
    changed.diagonal(dim1=2, dim2=3).fill_(9.0)
    with_diagonal = ((changed > 0) == patches.same)[..., row, column].double().mean(-1)
    free = 64 / (64 * 65 / 2)
    assert abs(free - 0.031) < 5e-4
    torch.testing.assert_close(with_diagonal, accuracy + free * (1 - accuracy), rtol=0, atol=1e-12)


def test_controls_without_a_model_score_what_they_must() -> None:
    patches = scene()
    same, counted, hard = patches.same, distinct_pairs(patches), hard_pairs(patches)
    assert patches.classes is not None
    never = pair_measures(all_different(patches.objects), same, counted, hard=hard)
    assert torch.equal(never["auc"].values, torch.full((B,), 0.5, dtype=torch.float64))
    assert torch.equal(never["balanced_accuracy"].values, never["auc"].values)
    assert torch.equal(never["hard_accuracy"].values, torch.ones(B, dtype=torch.float64))
    share = (same & counted).sum((1, 2)).double() / counted.sum((1, 2))
    torch.testing.assert_close(never["accuracy"].values, 1 - share)
    torch.testing.assert_close(never["average_precision"].values, share)
    oracle = pair_measures(by_labels(patches.classes), same, counted, hard=hard)
    assert torch.equal(oracle["hard_auc"].values, never["auc"].values)
    assert torch.equal(oracle["hard_accuracy"].values, torch.zeros(B, dtype=torch.float64))
    torch.testing.assert_close(oracle["accuracy"].values, 1 - hard.sum((1, 2)).double() / counted.sum((1, 2)))
    truth = pair_measures(by_labels(patches.objects), same, counted)
    assert all(bool((measure.values == 1).all()) for measure in truth.values())


def test_images_without_both_kinds_of_pairs_are_dropped_and_counted() -> None:
    objects = torch.randint(3, (B, N))
    objects[0] = 0  # one object: no pair of two
    objects[1] = torch.arange(N)  # no pair of one
    objects[2] = -1  # nothing known
    patches = Patches(torch.zeros(1, B, N, 1), objects)
    found = summarise(pair_measures(scores(patches.same), patches.same, distinct_pairs(patches)))
    assert [found[name][0].dropped for name in found] == [1, 3, 3, 2]
    assert all(interval.images + interval.dropped == B for layers in found.values() for interval in layers)
    assert all(len(layers) == L for layers in found.values())
    nothing = over_images(PerImage(torch.zeros(5), torch.zeros(5, dtype=torch.bool)))
    assert math.isnan(nothing.value)
    assert (nothing.images, nothing.dropped) == (0, 5)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for trial in range(400):
        values = torch.rand(60, generator=generator, dtype=torch.float64)
        interval = over_images(PerImage(values, torch.ones(60, dtype=torch.bool)), coverage=0.9, seed=trial)
        assert interval.low < interval.value == float(values.mean()) < interval.high
        covered += interval.low <= 0.5 <= interval.high
    assert abs(covered / 400 - 0.9) < 0.04
    exact = over_images(PerImage(values, torch.ones(60, dtype=torch.bool)), resamples=20_000)
    expected = 2 * 1.96 * float(np.std(values.numpy())) / math.sqrt(60)
    assert abs((exact.high - exact.low) / expected - 1) < 0.05


def test_images_that_do_not_count_have_the_value_zero() -> None:
    patches = scene(objects=1, images=3)  # one object: no pair of two
    for measure in pair_measures(scores(patches.same), patches.same, distinct_pairs(patches)).values():
        assert (measure.values[~measure.counted] == 0).all()
    assert not pair_measures(scores(patches.same), patches.same, distinct_pairs(patches))[
        "balanced_accuracy"
    ].counted.any()


def test_what_does_not_belong_together_is_refused() -> None:
    patches = scene()
    counted, logits = distinct_pairs(patches), scores(patches.same)
    with pytest.raises(ValueError, match=r"logits must be \(40, 24, 24\)"):
        pair_measures(logits[:, :-1], patches.same, counted)
    with pytest.raises(ValueError, match=r"bands must be \(40, 24, 24\)"):
        pair_measures(logits, patches.same, counted, bands=torch.zeros(N, N))
    logits[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="A logit is NaN"):
        pair_measures(logits, patches.same, counted)

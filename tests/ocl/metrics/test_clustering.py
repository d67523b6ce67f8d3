"""ARI and FG-ARI against scikit-learn at real sizes, and each rule on a case worked by hand."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from ocl.metrics import adjusted_rand_index, contingency, foreground_ari
from ocl.shapes import IGNORE


def both(prediction, segmentation):
    table = contingency(prediction, segmentation)
    return adjusted_rand_index(table), foreground_ari(table)


def blobs(shape, labels, size=8):
    """Random label maps in blocks, so that clusters have very unequal overlaps."""
    *lead, height, width = shape
    coarse = torch.randint(0, labels, (*lead, -(-height // size), -(-width // size)))
    return coarse.repeat_interleave(size, -2).repeat_interleave(size, -1)[..., :height, :width]


def corrupt(labels, share, count):
    return torch.where(torch.rand(labels.shape) < share, torch.randint(0, count, labels.shape), labels)


@pytest.mark.parametrize(
    ("shape", "images"),
    [((16, 16), 50), ((64, 64), 20), ((128, 128), 8), ((320, 320), 4), ((512, 512), 3), ((24, 256, 256), 2)],
)
def test_equals_scikit_learn(shape, images):
    segmentation = blobs((images, *shape), 6)
    for prediction in (
        torch.randint(0, 7, segmentation.shape),
        corrupt(segmentation, 0.2, 6),
        blobs((images, *shape), 9, 20),
        (segmentation > 2).long(),
    ):
        everywhere, foreground = both(prediction, segmentation)
        assert everywhere.counted.all()
        for i in range(images):
            true, guess = segmentation[i].flatten(), prediction[i].flatten()
            assert float(everywhere.values[i]) == pytest.approx(adjusted_rand_score(true, guess), abs=1e-9)
            inside = true > 0
            expected = adjusted_rand_score(true[inside], guess[inside])
            assert float(foreground.values[i]) == pytest.approx(expected, abs=1e-9)


def test_ignored_pixels_are_as_if_they_were_not_there():
    segmentation = torch.randint(-1, 5, (6, 40, 40))
    prediction = corrupt(segmentation.clamp(min=0), 0.3, 7)
    everywhere, foreground = both(prediction, segmentation)
    for i in range(6):
        true, guess = segmentation[i].flatten(), prediction[i].flatten()
        known, inside = true != IGNORE, true > 0
        assert float(everywhere.values[i]) == pytest.approx(adjusted_rand_score(true[known], guess[known]), abs=1e-9)
        assert float(foreground.values[i]) == pytest.approx(adjusted_rand_score(true[inside], guess[inside]), abs=1e-9)


@pytest.mark.parametrize("shape", [(512, 512), (24, 256, 256)])
@pytest.mark.parametrize("dominant", [None, 0.95])
def test_random_partitions_score_zero(shape, dominant):
    segmentation = torch.randint(0, 8, (2, *shape))
    if dominant is not None:  # one cluster holds nearly everything: where 64-bit integer products overflow
        segmentation = torch.where(torch.rand(segmentation.shape) < dominant, 0, segmentation)
    for values, counted in both(torch.randint(0, 8, segmentation.shape), segmentation):
        assert counted.all()
        assert values.abs().max() < 0.002


def test_no_overflow_at_ninety_five_percent_background():
    segmentation = torch.zeros(1, 256, 256, dtype=torch.int64)
    segmentation[0, :57, :57] = 1  # 5 % of the image
    prediction = torch.roll(segmentation, shifts=(6, 6), dims=(1, 2))
    total, row = 256**2, 57**2
    # Closed form for two sets of `row` pixels that share 51 x 51 of them.
    shared, pairs = 51 * 51, lambda n: n * (n - 1)
    together = pairs(shared) + 2 * pairs(row - shared) + pairs(total - 2 * row + shared)
    margin = pairs(row) + pairs(total - row)
    assert margin * margin > 2**63
    expected = (together - margin * margin / pairs(total)) / (margin - margin * margin / pairs(total))
    assert float(both(prediction, segmentation)[0].values) == pytest.approx(expected, abs=1e-9)
    assert 0.7 < expected < 0.9


def test_digits_survive_where_both_partitions_are_nearly_one_cluster():
    segmentation = torch.zeros(1, 24, 256, 256, dtype=torch.int64)
    prediction = segmentation.clone()
    segmentation[0, 0, 0, :3] = 1
    prediction[0, 0, 0, 1:4] = 1
    (values, _), _ = both(prediction, segmentation)
    expected = adjusted_rand_score(segmentation.flatten(), prediction.flatten())
    assert float(values) == pytest.approx(expected, rel=1e-12)
    assert 0.6 < expected < 0.7


def test_perfect_partitions_score_exactly_one_under_any_names():
    segmentation = torch.randint(0, 7, (8, 64, 64))
    renamed = torch.randperm(7)[segmentation]
    for values, counted in both(renamed, segmentation):
        assert counted.all()
        assert (values == 1).all()


def test_background_split_or_merged_with_an_object_costs_foreground_ari_nothing():
    segmentation = torch.tensor([[[0, 0, 0, 1, 1, 2, 2, 2]]])
    split = torch.tensor([[[0, 1, 2, 3, 3, 4, 4, 4]]])
    merged = torch.tensor([[[3, 3, 3, 3, 3, 4, 4, 4]]])
    for prediction in (split, merged):
        everywhere, foreground = both(prediction, segmentation)
        assert float(foreground.values) == 1
        assert float(everywhere.values) < 1


def test_splitting_or_merging_objects_is_punished():
    segmentation = torch.tensor([[[1, 1, 1, 1, 2, 2, 2, 2]]])
    assert float(both(torch.tensor([[[1, 1, 1, 1, 1, 1, 1, 1]]]), segmentation)[1].values) == 0  # nothing told apart
    # Split in two pairs each: R = 4 pairs of 2, a = 2 * 12, b = 4 * 2, M(M-1) = 56, all as ordered pairs.
    expected = (8 - 24 * 8 / 56) / ((24 + 8) / 2 - 24 * 8 / 56)
    assert float(both(torch.tensor([[[1, 1, 2, 2, 3, 3, 4, 4]]]), segmentation)[1].values) == pytest.approx(expected)


def test_one_object_scores_one_if_whole_and_zero_if_cut():
    segmentation = torch.tensor([[[0, 0, 1, 1, 1, 1]], [[0, 0, 1, 1, 1, 1]]])
    prediction = torch.tensor([[[5, 5, 5, 5, 5, 5]], [[0, 0, 1, 1, 1, 2]]])
    assert both(prediction, segmentation)[1].values.tolist() == [1, 0]


def test_images_without_objects_count_for_ari_only_and_without_pixels_for_neither():
    segmentation = torch.tensor([[[0, 0]], [[IGNORE, IGNORE]], [[0, 1]]])
    everywhere, foreground = both(torch.tensor([[[3, 3]], [[0, 1]], [[0, 1]]]), segmentation)
    assert everywhere.counted.tolist() == [True, False, True]
    assert foreground.counted.tolist() == [False, False, True]
    assert everywhere.values.tolist() == [1, 0, 1]


def test_trivial_agreement_scores_one():
    singletons = torch.arange(16).view(1, 4, 4)
    assert float(both(singletons, singletons)[0].values) == 1
    assert float(both(torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, 1, dtype=torch.int64))[0].values) == 1
    assert float(both(singletons, torch.zeros(1, 4, 4, dtype=torch.int64))[0].values) == 0


def test_unclaimed_pixels_are_one_cluster():
    segmentation, prediction = torch.randint(0, 4, (3, 20, 20)), torch.randint(-1, 4, (3, 20, 20))
    for (values, _), (shifted, _) in zip(
        both(prediction, segmentation), both(prediction + 1, segmentation), strict=True
    ):
        assert values.equal(shifted)

"""Foreground scores: closed forms, half precision, and what must hold whatever the numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocl.masks.base import Masks
from ocl.masks.foreground import (
    BorderPrior,
    BoxIoU,
    Candidates,
    CentrePrior,
    ClassAided,
    EnsembleEntropy,
    Entropy,
    MaximumProbability,
    MutualInformation,
    SizePrior,
    any_mask_correct,
)
from ocl.masks.selection import Best

FROM_PROBABILITIES = [MaximumProbability(), Entropy(), EnsembleEntropy(), MutualInformation()]


def candidates(probabilities, labels=None, valid=None, boxes=None, masks=None):
    images, count = probabilities.shape[1:3]
    masks = torch.ones(images, count, 4, 4, dtype=torch.bool) if masks is None else masks
    valid = torch.ones(images, count, dtype=torch.bool) if valid is None else valid
    return Candidates(probabilities, Masks(masks, valid.float(), valid), labels, boxes)


def rectangles(*boxes, size=(20, 30)):
    masks = torch.zeros(1, len(boxes), *size, dtype=torch.bool)
    for k, (left, top, right, bottom) in enumerate(boxes):
        masks[0, k, top:bottom, left:right] = True
    return masks


def of_masks(masks, boxes=None):
    return candidates(torch.full((1, *masks.shape[:2], 2), 0.5), masks=masks, boxes=boxes)


def test_entropies_of_the_uniform_and_of_certainty():
    p = torch.stack([torch.full((9,), 1 / 9), torch.eye(9)[4]])[None, None]  # (1 1 2 9)
    expected = torch.tensor([[1 - math.log(9), 1.0]])
    torch.testing.assert_close(Entropy()(candidates(p)), expected)
    torch.testing.assert_close(EnsembleEntropy()(candidates(p.repeat(3, 1, 1, 1))), expected)
    torch.testing.assert_close(MaximumProbability()(candidates(p)), torch.tensor([[1 / 9, 1.0]]))


def test_members_that_are_certain_of_different_classes_disagree_by_ln_2():
    p = torch.eye(5)[[1, 3]].view(2, 1, 1, 5)
    torch.testing.assert_close(MutualInformation()(candidates(p)), torch.tensor([[1 - math.log(2)]]))
    torch.testing.assert_close(EnsembleEntropy()(candidates(p)), torch.tensor([[1 - math.log(2)]]))
    assert Entropy()(candidates(p)) == 1  # of the first member alone
    agreed = torch.full((2, 1, 1, 5), 0.2)
    torch.testing.assert_close(MutualInformation()(candidates(agreed)), torch.ones(1, 1))


@pytest.mark.parametrize("score", FROM_PROBABILITIES, ids=lambda score: score.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_are_finite_in_halves_with_zeros(score, dtype):
    p = (30 * torch.randn(3, 2, 4, 1000)).softmax(-1).to(dtype)
    assert (p == 0).float().mean() > 0.5
    found = score(candidates(p))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("score", [*FROM_PROBABILITIES, ClassAided()], ids=lambda score: score.name)
def test_segments_that_are_not_valid_get_minus_infinity(score):
    valid = torch.tensor([[True, False, True], [False, True, True]])
    p = torch.randn(2, 2, 3, 4).softmax(-1)
    p[:, 0, 1] = torch.nan  # what an encoder may leave in the padding
    found = score(candidates(p, torch.tensor([0, 3]), valid))
    assert torch.equal(found.isneginf(), ~valid)
    assert found[valid].isfinite().all()


def test_class_aided_reads_the_true_class_and_is_alone_in_it():
    p = torch.rand(3, 2, 3, 4)
    found = ClassAided()(candidates(p, torch.tensor([2, 0])))
    assert torch.equal(found, torch.stack([p[0, 0, :, 2], p[0, 1, :, 0]]))
    assert ClassAided.uses_label
    assert not any(score.uses_label for score in [*FROM_PROBABILITIES, SizePrior(), BorderPrior(), BoxIoU()])


def test_size_and_border():
    masks = rectangles((0, 0, 30, 20), (0, 0, 15, 20), (10, 5, 20, 10))
    torch.testing.assert_close(SizePrior()(of_masks(masks)), torch.tensor([[1, 0.5, 50 / 600]]))
    torch.testing.assert_close(BorderPrior()(of_masks(masks)), torch.tensor([[0, 1 - (20 + 2 * 14) / 96, 1]]))
    torch.testing.assert_close(BorderPrior()(of_masks(masks.float() / 2))[0, 0], torch.tensor(0.5))


def test_the_centre_scores_one_and_corners_almost_nothing():
    found = CentrePrior()(of_masks(rectangles((10, 5, 20, 15), (0, 0, 1, 1), (29, 19, 30, 20), (0, 0, 30, 20))))[0]
    torch.testing.assert_close(found[[0, 3]], torch.ones(2))
    torch.testing.assert_close(found[1], found[2])
    torch.testing.assert_close(found[1], torch.tensor(1 - math.hypot(14.5, 9.5) / math.hypot(15, 10)))


def test_iou_with_the_true_box():
    masks = rectangles((4, 5, 12, 9), (8, 5, 16, 9), (0, 10, 30, 20))
    found = BoxIoU()(of_masks(masks, torch.tensor([[4, 5, 12, 9]])))
    torch.testing.assert_close(found, torch.tensor([[1, 16 / 48, 0]]))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000), classes=st.sampled_from([2, 3, 9]), count=st.integers(1, 8), scale=st.floats(0.1, 20)
)
def test_no_selection_beats_any_mask_correct_and_for_two_classes_none_beats_class_aided(seed, classes, count, scale):
    generator = torch.Generator().manual_seed(seed)
    p = (scale * torch.randn(3, 40, count, classes, generator=generator)).softmax(-1)
    labels = torch.randint(0, classes, (40,), generator=generator)
    valid = torch.rand(40, count, generator=generator) < 0.7
    valid[:, 0] = True
    found = candidates(p, labels, valid)
    best = any_mask_correct(found)
    right = {
        score.name: Best()(found, score(found)).probabilities.argmax(-1) == labels
        for score in [*FROM_PROBABILITIES, ClassAided()]
    }
    assert all((best | ~one).all() for one in right.values())
    if classes == 2:
        assert torch.equal(right["class-aided"], best)
    if count == 1:
        assert all(torch.equal(one, best) for one in right.values())


def test_what_is_missing_is_named():
    bare = candidates(torch.rand(1, 2, 3, 4))
    with pytest.raises(ValueError, match="true labels"):
        ClassAided()(bare)
    with pytest.raises(ValueError, match="true labels"):
        any_mask_correct(bare)
    with pytest.raises(ValueError, match="true boxes"):
        BoxIoU()(bare)
    with pytest.raises(ValueError, match="ensemble"):
        MutualInformation()(bare)


def test_candidates_that_do_not_fit_are_refused():
    p = torch.rand(1, 2, 3, 4)
    masks = candidates(p).masks
    for wrong in (p[0], p[:, :1], p[:, :, :2], p[:0], p[..., :0]):
        with pytest.raises(ValueError, match=r"probabilities must be \(E, 2, 3, C\)"):
            Candidates(wrong, masks)
    for wrong in (torch.tensor([0, 4]), torch.tensor([-1, 0]), torch.tensor([0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="labels must be"):
            Candidates(p, masks, wrong)
    with pytest.raises(ValueError, match="boxes must be"):
        Candidates(p, masks, boxes=torch.zeros(2, 3))


def test_no_segments_give_no_scores():
    empty = candidates(torch.rand(2, 3, 0, 4), torch.zeros(3, dtype=torch.long), boxes=torch.zeros(3, 4))
    for score in [*FROM_PROBABILITIES, ClassAided(), SizePrior(), CentrePrior(), BorderPrior(), BoxIoU()]:
        assert score(empty).shape == (3, 0)
    assert not any_mask_correct(empty).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 3.0])
def test_what_is_no_probability_is_refused(value):
    probabilities = torch.full((1, 2, 3, 4), 0.25)
    probabilities[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match="softmax over classes"):
        Candidates(probabilities, Masks.of(torch.ones(2, 3, 4, 4, dtype=torch.bool)))

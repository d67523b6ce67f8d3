"""mBO, mIoU and CorLoc: slow references, cases worked by hand, and the two background conventions."""

import itertools

import numpy as np
import pytest
import torch

from ocl.metrics import (
    box_corloc,
    class_segmentation,
    contingency,
    corloc,
    mean_best_overlap,
    mean_iou,
    recovery,
    tight_boxes,
)
from ocl.shapes import IGNORE


def iou_table(prediction, segmentation, background):
    """IoU with plain boolean masks; rows are the true segments present."""
    known = segmentation != IGNORE
    rows = [label for label in np.unique(segmentation[known]) if background or label > 0]
    columns = [label for label in np.unique(prediction[known]) if label >= 0]
    masks = [((segmentation == g) & known, (prediction == p) & known) for g in rows for p in columns]
    return np.array([(g & p).sum() / (g | p).sum() for g, p in masks]).reshape(len(rows), len(columns))


def best_pairing(iou):
    rows, columns = iou.shape
    if rows > columns:
        return best_pairing(iou.T)
    return max(sum(iou[r, c] for r, c in enumerate(pick)) for pick in itertools.permutations(range(columns), rows))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(("objects", "slots"), [(3, 5), (5, 3), (4, 4)])
def test_equals_masks_compared_one_by_one(background, objects, slots):
    segmentation = torch.randint(-1, objects + 1, (12, 32, 32))
    agree = torch.rand(12, 32, 32) < torch.rand(12, 1, 1)
    prediction = torch.where(agree, (segmentation % slots).clamp(min=0), torch.randint(-1, slots, (12, 32, 32)))
    table = contingency(prediction, segmentation)
    best, matched = mean_best_overlap(table, background), mean_iou(table, background)
    found, recovered = corloc(table), recovery(table)
    for i in range(12):
        iou = iou_table(prediction[i].numpy(), segmentation[i].numpy(), background)
        assert float(best.values[i]) == pytest.approx(iou.max(1).mean(), abs=1e-12)
        assert float(matched.values[i]) == pytest.approx(best_pairing(iou) / len(iou), abs=1e-12)
        objects_only = iou_table(prediction[i].numpy(), segmentation[i].numpy(), False).max(1)
        assert float(found.values[i]) == (objects_only > 0.5).any()
        assert float(recovered.values[i]) == pytest.approx((objects_only > 0.5).mean())


def test_perfect_masks_score_one_whatever_the_number_of_objects_and_slots():
    segmentation = torch.randint(0, 5, (6, 48, 48)) % torch.arange(2, 8)[:, None, None]
    table = contingency(torch.randperm(11)[segmentation], segmentation)
    for measure in (mean_best_overlap, mean_iou):
        for background in (False, True):
            assert (measure(table, background).values == 1).all()
    for measure in (corloc, recovery):
        assert (measure(table).values == 1).all()
    assert (box_corloc(segmentation, segmentation).values == 1).all()


def test_padded_mode_caps_perfect_masks_at_segments_over_slots():
    segmentation = torch.arange(4).view(1, 1, 4)  # background and three objects
    table = contingency(segmentation, segmentation)
    assert float(mean_iou(table, background=True, padded=7).values) == pytest.approx(4 / 7)
    assert float(mean_iou(table, background=True).values) == 1


def test_one_segment_may_serve_several_objects_in_mbo_but_only_one_in_miou():
    segmentation = torch.tensor([[[1, 1, 2, 2]]])
    table = contingency(torch.tensor([[[0, 0, 0, 0]]]), segmentation)
    assert float(mean_best_overlap(table).values) == 0.5
    assert float(mean_iou(table).values) == 0.25  # the object left over scores 0


def test_matching_maximises_the_sum_not_the_single_best():
    # Segment 0 covers both objects, segment 1 a part of the first: IoU rows (6/10, 2/6), (4/10... see below).
    segmentation = torch.tensor([[[1, 1, 1, 1, 1, 1, 2, 2, 2, 2]]])
    prediction = torch.tensor([[[1, 1, 0, 0, 0, 0, 0, 0, 0, 0]]])
    # IoU: object 1 with (0: 4/10, 1: 2/6), object 2 with (0: 4/8, 1: 0). Best pairing: 1-1 and 2-0.
    assert float(mean_iou(contingency(prediction, segmentation)).values) == pytest.approx((2 / 6 + 4 / 8) / 2)


def test_background_is_a_segment_only_when_asked_for():
    segmentation = torch.tensor([[[0, 0, 0, 0, 1, 1]]])
    split = contingency(torch.tensor([[[0, 0, 1, 1, 2, 2]]]), segmentation)  # background in two halves
    for measure in (mean_best_overlap, mean_iou):
        assert float(measure(split).values) == 1
        assert float(measure(split, background=True).values) == 0.75


def test_ignored_pixels_leave_areas_too():
    segmentation = torch.tensor([[[IGNORE, IGNORE, 1, 1, 0]]])
    prediction = torch.tensor([[[3, 3, 3, 3, 0]]])
    assert float(mean_best_overlap(contingency(prediction, segmentation)).values) == 1


def test_unclaimed_pixels_are_no_candidate_but_stay_in_the_object():
    table = contingency(torch.tensor([[[-1, -1, -1, 0]]]), torch.tensor([[[1, 1, 1, 1]]]))
    assert float(mean_best_overlap(table).values) == 0.25
    assert float(mean_iou(table).values) == 0.25
    assert (
        float(mean_best_overlap(contingency(torch.full((1, 1, 4), -1), torch.ones(1, 1, 4, dtype=torch.int64))).values)
        == 0
    )


def test_images_without_objects_do_not_count():
    segmentation = torch.tensor([[[0, 0]], [[IGNORE, 0]], [[0, 1]]])
    table = contingency(torch.zeros_like(segmentation), segmentation)
    for measure in (mean_best_overlap, mean_iou, corloc, recovery):
        values, counted = measure(table)
        assert counted.tolist() == [False, False, True]
        assert values[:2].tolist() == [0, 0]
    assert mean_best_overlap(table, background=True).counted.all()
    assert box_corloc(torch.zeros_like(segmentation), segmentation).counted.tolist() == [False, False, True]


def test_corloc_is_strict_at_one_half():
    segmentation = torch.tensor([[[1, 1, 0, 0]]])
    half = torch.tensor([[[1, 1, 1, 1]]])
    more = torch.tensor([[[1, 1, 1, 0]]])
    assert float(corloc(contingency(half, segmentation)).values) == 0
    assert float(corloc(contingency(more, segmentation)).values) == 1
    assert float(box_corloc(half, segmentation).values) == 0
    assert float(box_corloc(more, segmentation).values) == 1


def test_class_overlap_asks_for_the_class_not_the_instances():
    segmentation = torch.tensor([[[1, 1, 2, 2, 3, 3]]])
    classes = torch.tensor([[8, 8, 1]])
    prediction = torch.tensor([[[0, 0, 0, 0, 1, 1]]])
    assert float(mean_best_overlap(contingency(prediction, segmentation)).values) == pytest.approx(2 / 3)
    assert float(mean_best_overlap(contingency(prediction, class_segmentation(segmentation, classes))).values) == 1


def test_boxes_equal_numpy_and_absent_labels_have_none():
    labels = torch.full((6, 24, 31), -1)
    for i, label in itertools.product(range(6), range(4)):
        top, left = int(torch.randint(0, 20, ())), int(torch.randint(0, 25, ()))
        labels[i, top : top + 4, left : left + 5] = label
    boxes, present = tight_boxes(labels)
    for i, label in itertools.product(range(6), range(4)):
        rows, columns = np.nonzero(labels[i].numpy() == label)
        assert bool(present[i, label]) == bool(len(rows))
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
        assert boxes[i, label].tolist() == expected


def test_a_ring_and_its_inside_have_one_box_but_different_masks():
    segmentation = torch.zeros(1, 9, 9, dtype=torch.int64)
    segmentation[0, 1:8, 1:8] = 1
    ring = segmentation.clone()
    ring[0, 2:7, 2:7] = 0
    assert float(box_corloc(ring, segmentation).values) == 1
    assert float(corloc(contingency(ring, segmentation)).values) == 0


def test_no_image_has_no_box_and_per_image_values_are_float64():
    none = torch.zeros(0, 4, 4, dtype=torch.int64)
    assert box_corloc(none, none).values.shape == (0,)
    one = torch.ones(1, 4, 4, dtype=torch.int64)
    table = contingency(one, one)
    for measure in (recovery, corloc, mean_best_overlap, mean_iou):
        assert measure(table).values.dtype == torch.float64


def test_box_corloc_refuses_video():
    clip = torch.zeros(1, 2, 4, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="compares images"):
        box_corloc(clip, clip)

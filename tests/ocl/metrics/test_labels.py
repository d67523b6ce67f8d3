"""From soft masks to label maps to contingency tables."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ocl.metrics import UNCLAIMED, class_segmentation, contingency, label_map


def test_table_counts_what_numpy_counts():
    prediction, segmentation = torch.randint(-1, 7, (5, 33, 41)), torch.randint(-1, 6, (5, 33, 41))
    table = contingency(prediction, segmentation).numpy()
    expected = np.zeros((5, 6, 8))
    for image in range(5):
        keep = (segmentation[image] >= 0).numpy()
        np.add.at(expected[image], (segmentation[image].numpy()[keep], prediction[image].numpy()[keep] + 1), 1)
    assert (table == expected).all()


def test_table_of_many_images_is_the_table_of_each():
    prediction, segmentation = torch.randint(0, 7, (40, 96, 96)), torch.randint(-1, 6, (40, 96, 96))
    together = contingency(prediction, segmentation)
    assert all(
        together[i : i + 1].equal(contingency(prediction[i : i + 1], segmentation[i : i + 1])) for i in range(40)
    )


def test_a_clip_is_the_table_of_its_frames_summed():
    prediction, segmentation = torch.randint(0, 4, (2, 6, 16, 16)), torch.randint(0, 5, (2, 6, 16, 16))
    frames = contingency(prediction.flatten(0, 1), segmentation.flatten(0, 1)).view(2, 6, 5, 5).sum(1)
    assert contingency(prediction, segmentation).equal(frames)
    masks = functional.one_hot(prediction, 4).permute(0, 1, 4, 2, 3).float()
    assert contingency(masks, segmentation).equal(frames)


def test_upsampling_comes_before_argmax():
    # Slot 0 wins the left cell by a little and loses the right one by much: its border lies left of the middle.
    masks = torch.tensor([[[[0.6, 0.0]], [[0.4, 1.0]]]])  # (1 2 1 2)
    labels = label_map(masks, (1, 16))
    soft = functional.interpolate(masks, (1, 16), mode="bilinear", align_corners=False)
    assert labels.equal(soft.argmax(1))
    assert int((labels == 0).sum()) < 8


def test_chunks_do_not_show():
    masks = torch.rand(9, 7, 30, 30).softmax(1)
    whole = functional.interpolate(masks, (200, 180), mode="bilinear", align_corners=False).argmax(1)
    assert label_map(masks, (200, 180)).equal(whole)


def test_ties_go_to_the_lowest_slot_and_empty_pixels_to_nobody():
    masks = torch.zeros(1, 3, 2, 2)
    masks[0, 1:, 0] = 0.5
    assert label_map(masks, (2, 2)).tolist() == [[[1, 1], [UNCLAIMED, UNCLAIMED]]]


def test_invalid_slots_claim_nothing():
    masks = torch.rand(4, 5, 8, 8).softmax(1)
    valid = torch.tensor([[True, False, True, False, True]]).expand(4, 5)
    assert set(label_map(masks, (8, 8), valid).unique().tolist()) <= {0, 2, 4}
    assert (label_map(masks, (8, 8), torch.zeros(4, 5, dtype=torch.bool)) == UNCLAIMED).all()


def test_half_precision_masks_give_the_same_labels():
    masks = torch.rand(2, 4, 8, 8).softmax(1).bfloat16()
    assert label_map(masks, (32, 32)).equal(label_map(masks.float(), (32, 32)))


@pytest.mark.parametrize("bad", [-0.1, 2.0, float("nan")])
def test_masks_outside_zero_one_are_refused(bad):
    masks = torch.full((1, 2, 4, 4), 0.5)
    masks[0, 1, 2, 2] = bad
    with pytest.raises(ValueError, match="apply softmax"):
        label_map(masks, (4, 4))


def test_what_does_not_fit_is_refused():
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="integer label map"):
        contingency(labels, labels.float())
    with pytest.raises(ValueError, match="one shape"):
        contingency(labels[:, :2], labels)
    with pytest.raises(ValueError, match="-1 or more"):
        contingency(labels, labels - 2)
    with pytest.raises(ValueError, match="too sparse"):
        contingency(labels, labels + 10_000_000)
    with pytest.raises(ValueError, match=r"\(B, H, W\)"):
        contingency(labels[0], labels[0])
    with pytest.raises(ValueError, match=r"valid must be bool \(2, 3\)"):
        contingency(torch.ones(2, 3, 4, 4), labels, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="valid belongs to soft masks"):
        contingency(labels, labels, torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="masks must be floating"):
        label_map(labels, (4, 4))


def test_classes_merge_instances_and_keep_background_and_ignore():
    segmentation = torch.tensor([[[0, 1, 2], [3, -1, 0]]])
    assert class_segmentation(segmentation, torch.tensor([[4, 0, 4]])).tolist() == [[[0, 5, 1], [5, -1, 0]]]
    with pytest.raises(ValueError, match="names 2 objects"):
        class_segmentation(segmentation, torch.tensor([[4, 0]]))
    assert class_segmentation(segmentation[:0], torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 2, 3)
    small = segmentation.clamp(min=0).to(torch.uint8)
    assert class_segmentation(small, torch.tensor([[4, 0, 4, -1]])).tolist() == [[[0, 5, 1], [5, 0, 0]]]
    with pytest.raises(ValueError, match="a negative class would turn its object into background"):
        class_segmentation(segmentation, torch.tensor([[4, -1, 4]]))


def test_valid_slots_are_bool():
    with pytest.raises(ValueError, match="valid must be bool"):
        label_map(torch.ones(1, 2, 4, 4), (4, 4), torch.ones(1, 2))

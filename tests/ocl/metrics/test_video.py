"""Clips by hand: what whole-clip measures and identity switches must say."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from ocl.metrics.video import VideoMetrics, identity_switches


def clip(*frames: str) -> Tensor:
    """One label per pixel: "0112" is a frame of four; "." is unclaimed. -> (1 T 1 W)."""
    return torch.tensor([[[[-1 if c == "." else int(c) for c in frame]] for frame in frames]])


def switches(prediction: Tensor, truth: Tensor, **settings: int) -> float:
    found = identity_switches(prediction, truth, **settings)
    assert bool(found.counted.all())
    return float(found.values[0])


TRUTH = clip("0112", "0112", "0112")


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (("0112", "0112", "0112"), 0),  # perfect
        (("7335", "7335", "7335"), 0),  # any numbers, kept
        (("0112", "0221", "0221"), 1),  # both swapped once
        (("0112", "0221", "0112"), 2),  # and back
        (("0111", "0111", "0112"), 0.5),  # the second changes owner once, the first never
    ],
)
def test_switches_by_hand(prediction: tuple[str, ...], expected: float) -> None:
    assert switches(clip(*prediction), TRUTH) == expected


def test_the_owner_claims_most_of_the_object() -> None:
    truth = clip("1110", "1110")
    assert switches(clip("2230", "2233"), truth) == 0
    assert switches(clip("2230", "2330"), truth) == 1
    assert switches(clip("2230", "..20"), truth) == 1, "an object that nobody claims has changed hands"


def test_hidden_frames_are_passed_over() -> None:
    truth = clip("1100", "0000", "1100")
    assert switches(clip("2233", "3333", "2233"), truth) == 0
    assert switches(clip("2233", "3333", "3322"), truth) == 1
    few = clip("1100", "1000", "1100")
    assert switches(clip("2233", "3333", "2233"), few) == 2
    assert switches(clip("2233", "3333", "2233"), few, least_pixels=2) == 0


def test_clips_without_an_object_in_two_frames_do_not_count() -> None:
    for truth in (clip("0000", "0000"), clip("0110", "0000"), clip("0110")):
        assert not bool(identity_switches(torch.zeros_like(truth), truth).counted.any())


def test_ignored_pixels_are_no_objects() -> None:
    truth = clip("1111", "1111")
    truth[0, 1, 0, :3] = -1
    assert switches(clip("2222", "3332"), truth) == 0


def test_a_switch_costs_nothing_by_the_frame_and_much_by_the_clip() -> None:
    truth, prediction = clip("1122", "1122"), clip("1122", "2211")
    by_frame, by_clip = VideoMetrics(), VideoMetrics()
    by_frame.update(prediction.flatten(0, 1)[:, None], truth.flatten(0, 1)[:, None])
    by_clip.update(prediction, truth)
    assert float(by_frame.compute()["foreground_ari"]) == 1
    found = by_clip.compute()
    expected = adjusted_rand_score(truth.flatten().tolist(), prediction.flatten().tolist())
    assert float(found["foreground_ari"]) == pytest.approx(expected)
    assert float(found["mean_best_overlap"]) == pytest.approx(1 / 3)  # 2 of 6 pixels
    assert float(found["identity_switches"]) == 1


def test_soft_masks_and_labels_agree_at_video_size() -> None:
    labels = torch.randint(4, (2, 24, 64, 64))
    truth = torch.randint(6, (2, 24, 64, 64))
    masks = torch.nn.functional.one_hot(labels, 4).movedim(-1, 2).float()
    soft, hard = VideoMetrics(), VideoMetrics()
    soft.update(masks, truth)
    hard.update(labels, truth)
    assert soft.compute() == hard.compute()
    assert abs(float(hard.compute()["foreground_ari"])) < 1e-3, "a random partition scores nothing"


def test_means_over_clips_whatever_the_batches() -> None:
    truth, prediction = torch.randint(4, (6, 5, 8, 8)), torch.randint(3, (6, 5, 8, 8))
    once, twice = VideoMetrics(), VideoMetrics()
    once.update(prediction, truth)
    for part in (slice(0, 2), slice(2, 6)):
        twice.update(prediction[part], truth[part])
    for name, value in once.compute().items():
        torch.testing.assert_close(value, twice.compute()[name])


def test_images_are_no_clips() -> None:
    with pytest.raises(ValueError, match="counted in clips"):
        identity_switches(torch.zeros(2, 8, 8, dtype=torch.int64), torch.zeros(2, 8, 8, dtype=torch.int64))

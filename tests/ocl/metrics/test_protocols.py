"""Each protocol on masks made by hand: what it counts, what it leaves out, and when masks become segments."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from ocl.metrics.labels import contingency
from ocl.metrics.overlap import mean_best_overlap, mean_iou
from ocl.metrics.panoptic import panoptic_quality
from ocl.metrics.protocols import CLASSIC, DINOSAUR, FT_DINOSAUR, GENERA1Z, PROTOCOLS, protocol_named

TRUTH = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]] * 2)[None]  # (1 2 8): background, two objects
SPLIT = torch.tensor([[3, 3, 4, 4, 1, 1, 2, 2]] * 2)[None]  # the background in two halves
MERGED = torch.tensor([[0, 0, 0, 0, 0, 0, 2, 2]] * 2)[None]  # the first object swallowed by the background


def figures(protocol: str, prediction: torch.Tensor, truth: torch.Tensor = TRUTH) -> dict[str, float]:
    masks = torch.nn.functional.one_hot(prediction).movedim(-1, 1).float()
    return {name: float(value.values[0]) for name, value in protocol_named(protocol).measures(masks, truth).items()}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_what_all_protocols_share(name: str) -> None:
    assert protocol_named(name).name == name
    split, merged = figures(name, SPLIT), figures(name, MERGED)
    assert split["foreground_ari"] == merged["foreground_ari"] == 1  # blind to the background
    for found, prediction in ((split, SPLIT), (merged, MERGED)):
        assert found["ari"] == pytest.approx(adjusted_rand_score(TRUTH.flatten(), prediction.flatten()), abs=1e-12)
    assert all(value == 1 for value in figures(name, TRUTH).values())


@pytest.mark.parametrize("name", ["classic", "dinosaur", "ft_dinosaur"])
def test_overlaps_without_the_background(name: str) -> None:
    assert figures(name, SPLIT)["mean_best_overlap"] == figures(name, SPLIT)["mean_iou"] == 1
    merged = figures(name, MERGED)
    assert merged["mean_best_overlap"] == pytest.approx((4 / 12 + 1) / 2)
    assert merged["mean_iou"] == pytest.approx((4 / 12 + 1) / 2)


def test_overlaps_with_the_background() -> None:
    split, merged = figures("genera1z", SPLIT), figures("genera1z", MERGED)
    assert split["mean_best_overlap"] == split["mean_iou"] == pytest.approx((8 / 16 + 1 + 1) / 3)
    assert merged["mean_best_overlap"] == pytest.approx((8 / 12 + 4 / 12 + 1) / 3)
    assert merged["mean_iou"] == pytest.approx((8 / 12 + 0 + 1) / 3)  # one mask serves one segment


def test_what_two_protocols_may_differ_in() -> None:
    assert [protocol.background for protocol in (CLASSIC, DINOSAUR, FT_DINOSAUR, GENERA1Z)] == [False] * 3 + [True]
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(5, 6, 8, 8, generator=generator).softmax(1)
    truth = torch.randint(-1, 4, (5, 32, 32), generator=generator)
    table = contingency(masks, truth)
    for protocol in PROTOCOLS.values():
        found = protocol.measures(masks, truth)
        assert torch.equal(
            found["mean_best_overlap"].values, mean_best_overlap(table, background=protocol.background).values
        )
        assert torch.equal(found["mean_iou"].values, mean_iou(table, background=protocol.background).values)
        assert torch.equal(found["panoptic_quality"].values, panoptic_quality(table).values)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_soft_masks_are_upsampled_before_the_argmax(name: str) -> None:
    """0.9 to 0.4 falls below one half after 0.8 of the way: 5 of 8 pixels, where labels first would give 4."""
    masks = torch.tensor([[0.9, 0.4], [0.1, 0.6]]).view(1, 2, 1, 2)
    truth = torch.tensor([[0] * 5 + [1] * 3]).view(1, 1, 8)
    found = protocol_named(name).measures(masks, truth)
    assert float(found["ari"].values) == float(found["mean_best_overlap"].values) == 1


@pytest.mark.parametrize("name", PROTOCOLS)
def test_ignored_pixels_and_images_without_objects_do_not_count(name: str) -> None:
    truth = TRUTH.clone()
    truth[..., 5] = -1  # whatever the prediction says there
    wrong = TRUTH.clone()
    wrong[..., 5] = 2
    assert all(value == 1 for value in figures(name, wrong, truth).values())
    empty = protocol_named(name).measures(torch.ones(1, 1, 2, 8), torch.zeros(1, 2, 8, dtype=torch.long))
    assert not empty["foreground_ari"].counted
    assert bool(empty["mean_best_overlap"].counted) == protocol_named(name).background


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ValueError, match="no evaluation protocol 'spot'; it is one of classic, dinosaur"):
        protocol_named("spot")

"""Competition among kept slots only, and weak labels in a batch."""

from __future__ import annotations

import pytest
import torch

from ocl.shapes import Batch, softmax_over_slots


def test_all_kept_is_the_plain_softmax() -> None:
    logits = torch.randn(2, 5, 6, 7) * 30
    torch.testing.assert_close(softmax_over_slots(logits, torch.ones(2, 5)), softmax_over_slots(logits))


def test_dropped_slots_get_nothing_and_starve_nobody() -> None:
    logits = torch.randn(3, 4, 50, dtype=torch.float64)
    logits[:, 2] += 1e4
    keep = torch.tensor([1.0, 1, 0, 1]).expand(3, 4)
    masks = softmax_over_slots(logits, keep)
    assert masks[:, 2].abs().max() == 0
    torch.testing.assert_close(masks[:, [0, 1, 3]], logits[:, [0, 1, 3]].softmax(dim=1))


def test_gradient_of_keep() -> None:
    """a = z e / sum(z e): checked against finite differences for partial keeps."""
    logits = torch.randn(1, 3, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.tensor([[0.9, 0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(softmax_over_slots, (logits, keep))


def test_places_need_the_word_on_which_are_known() -> None:
    images, places, known = torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2), torch.ones(1, 2, dtype=torch.bool)
    assert Batch(images).hints is None
    hints = Batch(images, None, {"points": places, "point_known": known}).hints
    assert hints is not None
    assert hints.places is places
    assert hints.known is known
    for name, missing in (("points", "point_known"), ("boxes", "box_known")):
        with pytest.raises(ValueError, match=f'a batch with "{name}" must hold "{missing}"'):
            _ = Batch(images, None, {name: places}).hints

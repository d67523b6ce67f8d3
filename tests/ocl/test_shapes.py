"""Competition among kept slots only."""

from __future__ import annotations

import torch

from ocl.shapes import softmax_over_slots


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

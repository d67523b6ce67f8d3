"""Binary cross-entropy over pairs of patches, with its gradient in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits: Tensor, same: Tensor, counted: Tensor) -> Tensor:
    """(L): sum over pairs that count of -log p of the answer "same", or of "different" where it is the right one.

    Args:
        logits: (L B n n).
        same: (B n n) bool, the right answers.
        counted: (B n n) bool.
    """
    found: Tensor = _CrossEntropy.apply(logits, same, counted)  # type: ignore[no-untyped-call]
    return found


class _CrossEntropy(torch.autograd.Function):
    """With s the logit where the answer is "same" and minus the logit where it is not: log(1 + e^-s), whose derivative
    is -sigmoid(-s). Fewer passes over the pairs than autograd takes."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, same: Tensor, counted: Tensor) -> Tensor:
        weights = counted.to(logits.dtype)
        signs = same.to(logits.dtype).mul_(2).sub_(1)
        right = logits * signs
        ctx.save_for_backward(right, weights * signs)
        # log(1 + e^-s) = log(1 + e^-|s|) + max(-s, 0); 1 + e^-|s| rounds to the precision of 1, as the sum needs
        each = right.abs().neg_().exp_().add_(1).log_().sub_(right.clamp(max=0))
        return each.flatten(1) @ weights.flatten()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        right, slopes = ctx.saved_tensors
        return torch.sigmoid(-right).mul_(slopes).mul_(-gradient[:, None, None, None]), None, None

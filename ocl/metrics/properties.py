"""How well properties of objects were predicted: R2 for quantities, accuracy for categories."""

from __future__ import annotations

import torch
from torch import Tensor


def r_squared(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Coefficient of determination, 1 - sum of squared errors / sum of squares about the mean of THESE targets.

    Never above 1; 0 for their mean, negative for anything worse. Several dimensions are averaged with equal weight.

    Args:
        prediction, target: (n) or (n d) floating.
        weight: (n) how much each row counts, equally where None.

    Returns:
        () float64; NaN where a dimension is constant or fewer than two rows count.
    """
    weight = _check(prediction, target, weight)
    counted = weight > 0
    prediction, target, weight = prediction[counted].double(), target[counted].double(), weight[counted]
    if target.ndim == 2:
        weight = weight[:, None]
    error = (weight * (target - prediction).square()).sum(0)
    mean = (weight * target).sum(0) / weight.sum()
    spread = (weight * (target - mean).square()).sum(0)
    constant = (target == target[:1]).all(0)  # asked of the targets: rounding keeps their spread off zero
    unexplained: Tensor = error / spread.masked_fill(constant, float("nan"))
    return (1 - unexplained).mean()


def accuracy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Share of equal labels: (n), (n) integer and weight (n) -> () float64, NaN where nothing counts."""
    weight = _check(prediction, target, weight)
    share: Tensor = (weight * (prediction == target)).sum() / weight.sum()
    return share


def balanced_accuracy(prediction: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the classes in `target` of their accuracy, so that guessing scores 1 / classes however unequal the
    classes are: (n), (n) integer and weight (n) -> () float64, NaN where nothing counts."""
    weight = _check(prediction, target, weight)
    sizes = target.bincount(weight)
    right = target.bincount(weight * (prediction == target))
    recall: Tensor = right[sizes > 0] / sizes[sizes > 0]
    return recall.mean()


def _check(prediction: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape.")
    if weight is None:
        return torch.ones(len(target), dtype=torch.float64, device=target.device)
    if weight.shape != target.shape[:1]:
        raise ValueError(f"weight must be ({len(target)},), one per row, got {tuple(weight.shape)}.")
    return weight.double()

"""How well properties of objects were predicted: R2 for quantities, accuracy for categories."""

from __future__ import annotations

from torch import Tensor


def r_squared(prediction: Tensor, target: Tensor) -> Tensor:
    """Coefficient of determination, 1 - sum of squared errors / sum of squares about the mean of THESE targets.

    Never above 1; 0 for their mean, negative for anything worse. Several dimensions are averaged with equal weight.

    Args:
        prediction, target: (n) or (n d) floating.

    Returns:
        () float64; NaN where fewer than two targets or a constant dimension leave it undefined.
    """
    _check(prediction, target)
    prediction, target = prediction.double(), target.double()
    error = (target - prediction).square().sum(0)
    spread = (target - target.mean(0)).square().sum(0)
    unexplained: Tensor = error / spread.where(spread > 0, float("nan"))
    return (1 - unexplained).mean()


def accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of equal labels: (n), (n) integer -> () float64, NaN where n = 0."""
    _check(prediction, target)
    return (prediction == target).double().mean()


def balanced_accuracy(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes present in `target` of their accuracy, so that guessing scores 1 / classes however unequal
    the classes are: (n), (n) integer -> () float64, NaN where n = 0."""
    _check(prediction, target)
    classes, index = target.unique(return_inverse=True)
    sizes = index.bincount(minlength=len(classes))
    right = index[prediction == target].bincount(minlength=len(classes))
    recall: Tensor = right.double() / sizes
    return recall.mean()


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} must have one shape.")

"""R2 and accuracies against scikit-learn."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score

from ocl.metrics import accuracy, balanced_accuracy, r_squared


@pytest.mark.parametrize("shape", [(500,), (500, 3)])
def test_r_squared_equals_scikit_learn(shape):
    target = torch.randn(shape, dtype=torch.float64) * 5 + 100
    for noise in (0.0, 1.0, 30.0):
        prediction = target + noise * torch.randn(shape, dtype=torch.float64)
        assert float(r_squared(prediction, target)) == pytest.approx(r2_score(target, prediction), abs=1e-9)


def test_r_squared_is_one_for_truth_zero_for_the_mean_and_never_above_one():
    target = torch.randn(1000, 2)
    assert float(r_squared(target, target)) == 1
    assert float(r_squared(target.mean(0).expand(1000, 2), target)) == pytest.approx(0, abs=1e-9)
    assert float(r_squared(target.flip(0), target)) < -0.5


def test_r_squared_of_a_constant_is_undefined():
    assert math.isnan(r_squared(torch.randn(10), torch.full((10,), 0.1)))
    weight = torch.tensor([0.3, 0.7, 0.1, 0.0])
    assert math.isnan(r_squared(torch.randn(4), torch.tensor([0.1, 0.1, 0.1, 5.0]), weight))
    assert math.isnan(r_squared(torch.zeros(0), torch.zeros(0)))


def test_accuracies_equal_scikit_learn():
    target = (torch.rand(2000) ** 3 * 5).long()  # classes of very unequal size
    prediction = torch.where(torch.rand(2000) < 0.5, target, torch.randint(0, 5, (2000,)))
    assert float(accuracy(prediction, target)) == pytest.approx(accuracy_score(target, prediction))
    assert float(balanced_accuracy(prediction, target)) == pytest.approx(balanced_accuracy_score(target, prediction))


def test_the_majority_guess_scores_one_over_classes_when_balanced():
    target = torch.tensor([0] * 90 + [1] * 9 + [2])
    assert float(accuracy(torch.zeros_like(target), target)) == pytest.approx(0.9)
    assert float(balanced_accuracy(torch.zeros_like(target), target)) == pytest.approx(1 / 3)


def test_weights_mean_what_scikit_learn_means():
    weight = torch.rand(400, dtype=torch.float64) * (torch.rand(400) < 0.8)
    target = torch.randn(400, 2, dtype=torch.float64)
    prediction = target + torch.randn(400, 2, dtype=torch.float64)
    assert float(r_squared(prediction, target, weight)) == pytest.approx(
        r2_score(target, prediction, sample_weight=weight)
    )
    target, prediction = torch.randint(0, 4, (2, 400))
    for ours, theirs in ((accuracy, accuracy_score), (balanced_accuracy, balanced_accuracy_score)):
        expected = theirs(target, prediction, sample_weight=weight)
        assert float(ours(prediction, target, weight)) == pytest.approx(expected)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        r_squared(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="one per row"):
        accuracy(torch.zeros(3), torch.zeros(3), torch.ones(2))

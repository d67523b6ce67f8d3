"""Closed forms against autograd and loops, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.binding.cross_entropy import cross_entropy
from ocl.binding.symmetric_form import symmetric_form


def symmetric(layers: int, size: int) -> Tensor:
    matrix = torch.randn(layers, size, size, dtype=torch.float64)
    return matrix + matrix.mT


@pytest.mark.parametrize("size", [1, 5, 48, 97, 150, 192, 500])
def test_half_of_the_form_says_all(size: int) -> None:
    """Values and gradients are those of the whole matrix; sizes that bands do not divide evenly among them."""
    tokens = torch.randn(2, 3, 7, size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, size, size, dtype=torch.float64, requires_grad=True)
    matrix = weight + weight.mT  # what a probe learns is symmetric only then
    found = symmetric_form(tokens, matrix)
    expected = tokens @ matrix[:, None] @ tokens.mT
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    toward = torch.randn_like(found)  # not symmetric
    ours = torch.autograd.grad(found, (tokens, weight), toward, retain_graph=True)
    theirs = torch.autograd.grad(expected, (tokens, weight), (toward + toward.mT) / 2)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * float(other.abs().max()))


def test_the_loss_is_torchs_and_so_is_its_gradient() -> None:
    logits = (20 * torch.randn(3, 4, 6, 6, dtype=torch.float64)).requires_grad_()
    same, counted = torch.rand(4, 6, 6) < 0.4, torch.rand(4, 6, 6) < 0.7
    found = cross_entropy(logits, same, counted)
    each = F.binary_cross_entropy_with_logits(logits, same.double().expand_as(logits), reduction="none")
    expected = (each * counted).sum((1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    scale = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (ours,) = torch.autograd.grad(found, logits, scale)
    (theirs,) = torch.autograd.grad(expected, logits, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)


def test_sure_answers_cost_nothing_or_as_much_as_they_are_sure() -> None:
    logits = torch.tensor([0.0, 30.0, -30.0, 1000.0, -1000.0]).view(5, 1, 1, 1)
    yes, counted = torch.ones(1, 1, 1, dtype=torch.bool), torch.ones(1, 1, 1, dtype=torch.bool)
    torch.testing.assert_close(cross_entropy(logits, yes, counted), torch.tensor([0.6931472, 0, 30, 0, 1000]))
    torch.testing.assert_close(cross_entropy(logits, ~yes, counted), torch.tensor([0.6931472, 30, 0, 1000, 0]))

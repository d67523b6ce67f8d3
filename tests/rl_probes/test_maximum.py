"""The maximum over slots: torch's own value and gradient, bit for bit."""

import pytest
import torch

from rl_probes.maximum import set_maximum


@pytest.mark.parametrize("kind", ["distinct", "several hold it", "all zero"])
def test_value_and_gradient_are_those_of_torch(kind):
    features = torch.randn(64, 5, 128)
    if kind == "several hold it":
        features[:, 3] = features[:, 1]
        features = features.relu()
    if kind == "all zero":
        features.zero_()
    above = torch.randn(64, 128)
    found = []
    for maximum in (set_maximum, lambda x: x.amax(1)):
        leaf = features.clone().requires_grad_()
        value = maximum(leaf)
        value.backward(above)
        found.append((value.detach(), leaf.grad))
    for ours, torchs in zip(*found, strict=True):
        assert torch.equal(ours, torchs)
    with torch.inference_mode():
        assert torch.equal(set_maximum(features), features.amax(1))


def test_the_gradient_is_that_of_differences():
    features = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(set_maximum, features)

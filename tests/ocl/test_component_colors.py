"""Tokens as colours: the largest component is red, whatever the basis; the image is filled from end to end."""

from __future__ import annotations

import torch

from ocl.pictures import component_colors


def test_components_become_colors_in_the_order_of_their_variance() -> None:
    values = torch.rand(480, 3)
    planted = (torch.linalg.qr(values - values.mean(0)).Q * torch.tensor([9.0, 3.0, 1.0])).view(4, 120, 3)
    basis = torch.linalg.qr(torch.randn(16, 16)).Q[:3]
    colors = component_colors(planted @ basis + 7, (10, 12))
    assert colors.shape == (4, 3, 10, 12)
    found = colors.movedim(1, -1).flatten(0, 2)
    for component in range(3):
        correlation = torch.corrcoef(torch.stack([found[:, component], planted[..., component].flatten()]))[0, 1]
        assert correlation.abs() > 0.99
    assert found.amin(0).tolist() == [0, 0, 0]
    assert found.amax(0).tolist() == [1, 1, 1]
    assert torch.equal(colors, component_colors(planted @ basis + 7, (10, 12)))


def test_equal_tokens_are_one_color() -> None:
    assert len(component_colors(torch.ones(2, 4, 8), (2, 2)).unique()) == 1

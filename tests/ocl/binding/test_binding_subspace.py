"""Planted directions are found, planted differences told apart, and correlations are numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ocl.binding.probes import Quadratic
from ocl.binding.subspace import (
    attention_correlation,
    identical_differences,
    purity,
    random_subspace,
    top_subspace,
)


def test_planted_directions_are_found_whatever_their_sign() -> None:
    dim, values = 40, torch.tensor([5.0, -4.0, 3.0, -0.2, 0.1])
    directions = torch.stack([random_subspace(dim, 5) for _ in range(2)])  # (L D 5)
    form = directions @ torch.diag(values) @ directions.mT
    found = top_subspace(form, 3)
    torch.testing.assert_close(found.eigenvalues[:, :5], values.expand(2, -1), rtol=0, atol=1e-5)
    projector, planted = found.basis @ found.basis.mT, directions[..., :3] @ directions[..., :3].mT
    torch.testing.assert_close(projector, planted, rtol=0, atol=1e-5)
    torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-5)
    held = values[:3].square().sum() / values.square().sum()
    torch.testing.assert_close(found.held, held.expand(2), rtol=0, atol=1e-6)
    assert top_subspace(torch.zeros(1, 4, 4), 2).held.tolist() == [0]


def test_forms_of_probes_are_taken_and_others_refused() -> None:
    probe = Quadratic(12, 3)
    with torch.no_grad():
        probe.weight.normal_()
    assert top_subspace(probe.form(), 12).held.tolist() == pytest.approx([1, 1, 1])
    with pytest.raises(ValueError, match="form must be symmetric"):
        top_subspace(torch.randn(1, 4, 4), 2)
    with pytest.raises(ValueError, match="rank 1 to D"):
        top_subspace(torch.eye(4)[None], 5)
    with pytest.raises(ValueError, match="a subspace of 4 dimensions has a rank of 1 to 4, got 5"):
        random_subspace(4, 5)


def test_random_subspaces_have_no_preferred_direction() -> None:
    share = torch.stack([random_subspace(10, 3).square().sum(1) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(share, torch.full((10,), 0.3), rtol=0, atol=0.03)


def copies(binding: float, objects: int = 4, directions: int = 3, patches: int = 100, dim: int = 48) -> torch.Tensor:
    """Identical objects: the same content in the same patch, a vector of their own in a few directions, and noise."""
    content = 5 * torch.randn(patches, dim)
    own = binding * torch.linalg.qr(torch.randn(max(objects, directions), directions)).Q[:objects]
    own = own @ random_subspace(dim, directions).mT
    return content + own[:, None] + 0.03 * torch.randn(objects, patches, dim)


@pytest.mark.parametrize(("objects", "directions"), [(4, 2), (6, 3), (9, 5)])
def test_planted_differences_take_as_many_components_and_are_told_apart(objects: int, directions: int) -> None:
    found = identical_differences(copies(8.0, objects, directions), components=directions)
    assert found.explained.sum() >= 0.95
    assert found.explained[:-1].sum() < 0.95
    assert found.purity == 1.0
    assert found.projections.shape == (objects - 1, 100, directions)


def test_without_binding_clusters_know_nothing() -> None:
    found = identical_differences(copies(binding=0.0))
    assert found.explained.sum() < 0.3
    assert found.purity < 0.48  # three clusters of 300 at chance: 0.33, and the best of them a little more
    with pytest.raises(ValueError, match="at least 3 objects"):
        identical_differences(torch.randn(2, 5, 4))
    with pytest.raises(ValueError, match="1 to 4 components, got 5"):
        identical_differences(torch.randn(3, 5, 4), components=5)


def test_purity_counts_the_most_frequent_label() -> None:
    clusters, labels = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([1, 1, 0, 0, 2, 2])
    assert purity(clusters, labels) == pytest.approx((2 + 1 + 1) / 6)


def test_correlations_are_numpys() -> None:
    layers, images, heads, patches = 2, 3, 4, 9
    attention = torch.rand(layers, images, heads, patches, patches).softmax(-1)
    counted = torch.rand(images, patches, patches) < 0.7
    same = torch.rand(images, patches, patches) < 0.4
    logits = torch.randn(layers, images, patches, patches)
    found, by_logit = attention_correlation(attention, same, counted), attention_correlation(attention, logits, counted)
    assert found.values.shape == by_logit.values.shape == (layers, images, heads)
    for layer, image, head in np.ndindex(layers, images, heads):
        use = counted[image]
        weights = attention[layer, image, head][use].double().numpy()
        expected = np.corrcoef(weights, same[image][use].numpy())[0, 1]
        assert abs(found.values[layer, image, head] - expected) < 1e-9
        expected = np.corrcoef(weights, logits[layer, image][use].double().numpy())[0, 1]
        assert abs(by_logit.values[layer, image, head] - expected) < 1e-9
    uniform = attention_correlation(torch.full_like(attention, 1 / patches), same, counted)
    assert not uniform.counted.any()
    assert not uniform.values.any()

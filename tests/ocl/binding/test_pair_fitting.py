"""Fits on planted binding: which probes find it, and that layers and epochs are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ocl.binding.controls import all_different, by_labels, permuted
from ocl.binding.fitting import fit, mean_loss
from ocl.binding.measures import pair_measures
from ocl.binding.pairs import hard_pairs
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.pointwise import MatchedIdentity, PointwiseClass
from ocl.binding.probes import Cosine, Diagonal, Linear, LowRank, PairProbe, Quadratic, SignedLowRank

SETTINGS: dict[str, Any] = {"epochs": 40, "lr": 1e-2, "decay_every": None}


def scored(logits: torch.Tensor, test: Patches) -> dict[str, list[float]]:
    """Means over images: measure -> one value per layer."""
    found = pair_measures(logits, test.same, distinct_pairs(test), hard=hard_pairs(test))
    return {name: measure.values.mean(-1).tolist() for name, measure in found.items()}


def both(toy: Any) -> tuple[Patches, Patches]:
    """Training and test images with two layers: the dimensions as they are, and rotated."""
    parts = zip((toy.training, toy.test), toy.rotated, strict=True)
    training, test = (
        Patches(torch.cat([plain.tokens, rotated.tokens]), plain.objects, plain.classes) for plain, rotated in parts
    )
    return training, test


TABLE: dict[str, tuple[Callable[[], PairProbe], tuple[float, float], tuple[float, float]]] = {
    "linear": (lambda: Linear(64, 2), (0.731, 0.49), (0.731, 0.49)),
    "cosine": (lambda: Cosine(64, 2), (0.854, 0.98), (0.854, 0.98)),
    "diagonal": (lambda: Diagonal(64, 2), (0.968, 1.00), (0.871, 0.95)),
    "full": (lambda: Quadratic(64, 2), (0.941, 0.99), (0.935, 0.99)),
    "low rank": (lambda: LowRank(64, 16, 2), (0.929, 0.99), (0.931, 0.99)),
    "half negative": (lambda: SignedLowRank(64, 16, 8, 2), (0.905, 0.97), (0.904, 0.97)),
    "positive": (lambda: SignedLowRank(64, 16, 0, 2), (0.934, 0.99), (0.934, 0.99)),
}


@pytest.mark.parametrize("name", TABLE)
def test_probes_find_planted_binding_as_well_as_they_can(toy: Any, name: str) -> None:
    """Accuracy and AUC to 2 points of an earlier run with another implementation of probes and generator."""
    make, plain, rotated = TABLE[name]
    training, test = both(toy)
    probe = make()
    fit(probe, training, **SETTINGS)
    with torch.no_grad():
        found = scored(probe(test.tokens), test)
    for layer, (accuracy, area) in enumerate((plain, rotated)):
        assert abs(found["accuracy"][layer] - accuracy) <= 0.02
        assert abs(found["auc"][layer] - area) <= 0.02
    baseline = scored(all_different(test.objects), test)["accuracy"]
    if name == "linear":
        assert all(abs(value - baseline) <= 0.01 for value in found["accuracy"])
        assert all(0.45 <= value <= 0.55 for value in found["auc"])
    if name == "full":
        assert min(found["accuracy"]) >= 0.92
        assert abs(found["accuracy"][0] - found["accuracy"][1]) <= 0.02
    if name == "diagonal":
        assert found["accuracy"][0] - found["accuracy"][1] >= 0.05


def test_permuted_tokens_tell_nothing(toy: Any) -> None:
    """Labels of other patches than the tokens' own: the full probe falls to the share of different pairs, once held-out
    images choose its epoch (after 40 of them it has learned its training images by heart and scores 1.4 points less).
    """
    generator = torch.Generator().manual_seed(0)
    training, test = (
        Patches(permuted(part.tokens, generator), part.objects, part.classes) for part in (toy.training, toy.test)
    )
    probe = Quadratic(64)
    fit(probe, training.take(torch.arange(240)), training.take(torch.arange(240, 300)), **SETTINGS)
    with torch.no_grad():
        found = scored(probe(test.tokens), test)
    baseline = scored(all_different(test.objects), test)["accuracy"]
    assert abs(baseline - 0.731) <= 0.02
    assert abs(found["accuracy"][0] - baseline) <= 0.01
    assert 0.45 <= found["auc"][0] <= 0.55


def test_class_probes_stop_at_the_class_oracle(toy: Any) -> None:
    oracle = scored(by_labels(toy.test.classes), toy.test)
    assert abs(oracle["accuracy"] - 0.828) <= 0.02
    probe = PointwiseClass(64, 12)
    fit(probe, toy.training, **SETTINGS)
    with torch.no_grad():
        soft = scored(probe(toy.test.tokens), toy.test)
        hard = scored(probe.hard(toy.test.tokens), toy.test)
    assert abs(soft["accuracy"][0] - oracle["accuracy"]) < 0.01
    assert abs(hard["accuracy"][0] - oracle["accuracy"]) < 0.01
    assert hard["hard_accuracy"][0] < 0.01
    assert abs(soft["hard_auc"][0] - 0.5) < 0.05


def test_matched_identities_are_learned_without_names(toy: Any) -> None:
    """Objects have no order here, so names must be matched; which class an object is of tells most of them apart."""
    probe = MatchedIdentity(64, 12)
    record = fit(probe, toy.training, **SETTINGS)
    assert record.training[-1] < 0.75 * record.training[0]
    with torch.no_grad():
        found = scored(probe.hard(toy.test.tokens), toy.test)
    baseline = scored(all_different(toy.test.objects), toy.test)["balanced_accuracy"]
    assert found["balanced_accuracy"][0] > baseline + 0.2


def test_layers_are_fitted_as_if_alone(toy: Any) -> None:
    training, test = both(toy)
    together = Quadratic(64, 2)
    record = fit(together, training, test, epochs=6, lr=1e-2, batch=64, standardise=True, seed=3)
    for layer in range(2):
        alone = Quadratic(64)
        parts = (Patches(part.tokens[layer : layer + 1], part.objects) for part in (training, test))
        own = fit(alone, *parts, epochs=6, lr=1e-2, batch=64, standardise=True, seed=3)
        torch.testing.assert_close(alone.weight[0], together.weight[layer], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(own.training[:, 0], record.training[:, layer], rtol=1e-4, atol=1e-5)
        assert own.kept[0] == record.kept[layer]


def test_each_layer_keeps_its_own_best_epoch(toy: Any) -> None:
    """Tokens without any binding overfit from the first epochs on; those with it go on improving."""
    few = torch.arange(60)
    generator = torch.Generator().manual_seed(0)

    def with_noise(part: Patches) -> Patches:
        noise = torch.randn(part.tokens.shape, generator=generator)
        return Patches(torch.cat([part.tokens, noise]), part.objects)

    training, test = with_noise(toy.training.take(few)), with_noise(toy.test)
    probe = Quadratic(64, 2)
    record = fit(probe, training, test, epochs=30, lr=2e-2, batch=8, decay_every=None)
    assert record.validation is not None
    assert torch.equal(record.kept, record.validation.argmin(0))
    assert record.kept[1] < record.kept[0]
    torch.testing.assert_close(mean_loss(probe, test), record.validation.amin(0))
    stopped = fit(Quadratic(64, 2), training, test, epochs=30, lr=2e-2, batch=8, decay_every=None, patience=3)
    assert stopped.validation is not None
    assert len(stopped.validation) == min(30, int(stopped.kept.max()) + 4)


def test_halves_are_fitted_in_float32(toy: Any) -> None:
    halves = Patches(toy.training.tokens.half(), toy.training.objects)
    first, second = Quadratic(64), Quadratic(64)
    one = fit(first, toy.training, epochs=3)
    two = fit(second, halves, epochs=3)
    assert second.weight.dtype == torch.float32
    torch.testing.assert_close(one.training, two.training, rtol=1e-3, atol=1e-3)


def test_images_without_a_pair_do_not_stop_a_fit_and_change_nothing(toy: Any) -> None:
    """Three images of which nothing is known, in one batch with the others and each in a batch of its own."""
    few = toy.training.take(torch.arange(60))
    plain, mixed = Quadratic(64), Quadratic(64)
    unknown = Patches(few.tokens[:, :3], few.objects[:3] * 0 - 1)
    both = Patches(torch.cat([few.tokens, unknown.tokens], 1), torch.cat([few.objects, unknown.objects]))
    fit(plain, few, epochs=3, batch=63, lr=1e-2)
    fit(mixed, both, epochs=3, batch=63, lr=1e-2)
    torch.testing.assert_close(mixed.weight, plain.weight, rtol=1e-3, atol=1e-4)
    record = fit(Quadratic(64), both, epochs=3, batch=1)
    assert record.training[-1] < record.training[0]


def test_validation_images_that_cannot_choose_are_refused(toy: Any) -> None:
    """Else every layer would keep its first epoch, or its start, without a word."""
    few = toy.training.take(torch.arange(20))
    with pytest.raises(ValueError, match="No pair of validation patches counts"):
        fit(Quadratic(64), few, Patches(few.tokens, few.objects * 0 - 1), epochs=2)
    with pytest.raises(ValueError, match="validation loss is not finite in epoch 0"):
        fit(Quadratic(64), few, Patches(few.tokens / 0, few.objects), epochs=2)


def test_what_cannot_be_fitted_is_refused() -> None:
    objects = torch.zeros(4, 5, dtype=torch.int64)
    patches = Patches(torch.randn(1, 4, 5, 8), objects)
    with pytest.raises(ValueError, match="fit needs images"):
        fit(Linear(8), patches.take(torch.arange(0)))
    with pytest.raises(ValueError, match="No pair of training patches counts"):
        fit(Linear(8), Patches(patches.tokens, objects - 1))
    with pytest.raises(ValueError, match="not finite in epoch 0"):
        fit(Linear(8), Patches(patches.tokens / 0, objects))
    with pytest.raises(ValueError, match="tokens must be"):
        fit(Linear(9), patches)

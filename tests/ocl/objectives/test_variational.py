"""The variational autoencoder against closed forms: divergences, and evidence that can be computed exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.encoders.cnn import CNNEncoder
from ocl.encoders.gaussian import GaussianEncoder
from ocl.objectives.autoencoder import ImageDecoder
from ocl.objectives.variational import VariationalAutoencoder, VectorDecoder, kl_to_standard_normal, sample
from ocl.representations import WholeImage
from ocl.shapes import Batch, Features

SIZE, LATENTS = (2, 2), 3
PIXELS = 3 * 2 * 2


class LinearGaussian(nn.Module):
    """x = W z + b + noise of variance 1 and z ~ N(0, I), with orthogonal columns of W: everything is known exactly."""

    def __init__(self) -> None:
        super().__init__()
        columns, _ = torch.linalg.qr(torch.randn(PIXELS, LATENTS))
        self.weight = columns * torch.tensor([0.5, 1.5, 3.0])
        self.bias = torch.randn(PIXELS)
        self.dim, self.image_size = LATENTS, SIZE

    def forward(self, latents: Tensor) -> Tensor:
        return (latents @ self.weight.mT + self.bias).unflatten(1, (3, *SIZE))

    def log_evidence(self, images: Tensor) -> Tensor:
        """log p(x) without its constant."""
        covariance = torch.eye(PIXELS) + self.weight @ self.weight.mT
        constant = PIXELS / 2 * math.log(2 * math.pi)
        log_prob: Tensor = MultivariateNormal(self.bias, covariance).log_prob(images.flatten(1))
        return log_prob + constant


class Posterior(GaussianEncoder):
    """The exact p(z | x) of `LinearGaussian`, or one that is off."""

    def __init__(self, world: LinearGaussian, shift: float = 0.0, stretch: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.world, self.shift, self.stretch = world, shift, stretch
        self.dim, self.image_size = LATENTS, SIZE

    def distribution(self, images: Tensor) -> tuple[Tensor, Tensor]:
        precision = 1 + self.world.weight.square().sum(dim=0)  # diagonal, for orthogonal columns
        mean = (images.flatten(1) - self.world.bias) @ self.world.weight / precision + self.shift
        return mean, (-precision.log() + self.stretch).expand_as(mean)


def test_the_divergence_is_that_of_torch() -> None:
    mean, log_variance = 3 * torch.randn(50, 7), 2 * torch.randn(50, 7)
    standard = Normal(torch.zeros(50, 7), torch.ones(50, 7))
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), standard).sum(-1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected, rtol=1e-5, atol=1e-5)
    assert kl_to_standard_normal(torch.zeros(1, 7), torch.zeros(1, 7)) == 0
    assert kl_to_standard_normal(torch.ones(1, 8), torch.zeros(1, 8)) == 4  # |mean|^2 / 2


def test_the_bound_is_the_evidence_where_the_posterior_is_exact() -> None:
    world = LinearGaussian()
    image = torch.randn(1, 3, *SIZE)
    batch = Batch(image.expand(200_000, -1, -1, -1))
    evidence = float(world.log_evidence(image))
    exact = float(VariationalAutoencoder(Posterior(world), world)(batch)["loss"])
    assert -exact == pytest.approx(evidence, abs=0.02)
    for off in ({"shift": 0.5}, {"stretch": 1.0}, {"stretch": -1.0}):
        encoder = Posterior(world, **off)
        loss = float(VariationalAutoencoder(encoder, world)(batch)["loss"])
        (mean, log_variance), (true_mean, true_log_variance) = (
            one.distribution(image) for one in (encoder, Posterior(world))
        )
        q, p = (Normal(m, (v / 2).exp()) for m, v in ((mean, log_variance), (true_mean, true_log_variance)))
        gap = float(kl_divergence(q, p).sum())  # what the bound loses, exactly
        assert gap > 0.1
        assert loss - exact == pytest.approx(gap, abs=0.05)


def test_beta_weighs_the_divergence_alone() -> None:
    world = LinearGaussian()
    batch = Batch(torch.randn(16, 3, *SIZE))
    found = {}
    for beta in (0.0, 1.0, 5.0):
        torch.manual_seed(0)
        found[beta] = VariationalAutoencoder(Posterior(world), world, beta)(batch)
        terms = found[beta]
        torch.testing.assert_close(terms["loss"], terms["reconstruction"] + beta * terms["kl"])
    assert found[0.0]["reconstruction"] == found[5.0]["reconstruction"]
    torch.manual_seed(0)
    latents = sample(*Posterior(world).distribution(batch.images))
    expected = sum(
        float((world(z[None])[0] - x).square().sum()) / 2 for z, x in zip(latents, batch.images, strict=True)
    )
    assert float(found[0.0]["loss"]) == pytest.approx(expected / 16, rel=1e-5)


def test_draws_have_the_moments_and_gradients_of_the_gaussian() -> None:
    mean = torch.tensor([[1.0, -2.0]]).expand(200_000, 2).clone().requires_grad_()
    log_variance = torch.tensor([[0.0, 2.0]]).expand(200_000, 2).clone().requires_grad_()
    drawn = sample(mean, log_variance)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([1.0, -2.0]), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.tensor([0.0, 2.0]).exp(), rtol=0.02, atol=0)
    drawn.square().sum().backward()  # d E[z^2] / d mean = 2 mean, d E[z^2] / d log variance = variance
    torch.testing.assert_close(mean.grad.mean(0), torch.tensor([2.0, -4.0]), atol=0.06, rtol=0)
    torch.testing.assert_close(log_variance.grad.mean(0), torch.tensor([0.0, 2.0]).exp(), rtol=0.03, atol=0)


def built(beta: float = 1.0, dim: int = 8) -> VariationalAutoencoder:
    tokens = CNNEncoder((32, 32), dim=8, channels=16, strides=(2, 2, 2))
    decoder = VectorDecoder(dim, ImageDecoder(8, (4, 4), channels=16))
    return VariationalAutoencoder(GaussianEncoder(tokens, dim), decoder, beta)


def test_it_learns_and_too_large_a_beta_tells_nothing() -> None:
    batch = collate(SpriteScenes(16, image_size=32).__getitems__(range(16)))
    batch.images = batch.images / 255
    ends = {}
    for beta in (1.0, 1000.0):
        torch.manual_seed(0)
        model = built(beta)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(200):
            optimizer.zero_grad()
            terms = model(batch)
            terms["loss"].backward()
            if step == 0:
                assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
            optimizer.step()
        ends[beta] = {name: float(term.detach()) for name, term in terms.items()}
    assert ends[1.0]["kl"] > 1
    assert ends[1000.0]["kl"] < 0.1
    mean_image = float((batch.images - batch.images.mean(0)).square().flatten(1).sum(1).mean() / 2)
    assert ends[1.0]["reconstruction"] < 0.7 * mean_image < ends[1000.0]["reconstruction"]


def test_the_frozen_encoder_gives_the_mean() -> None:
    model = built()
    images = torch.rand(5, 3, 32, 32)
    mean, log_variance = model.encoder.distribution(images)
    assert mean.shape == log_variance.shape == (5, 8)
    features: Features = model.encoder.tokens(images)
    expected = features.tokens.flatten(1) @ model.encoder.head.weight[:8].mT
    torch.testing.assert_close(mean, expected)
    frozen = WholeImage(model.encoder)
    slots = frozen(Batch(images))
    assert slots.vectors.shape == (5, 1, 8)
    assert slots.valid.all()
    assert slots.masks is None
    torch.testing.assert_close(slots.vectors[:, 0], mean)
    assert frozen.fingerprint == WholeImage(model.encoder).fingerprint
    with torch.no_grad():
        model.encoder.head.bias[0] += 1
    assert frozen.fingerprint != WholeImage(built().encoder).fingerprint
    painted, invented = model.pictures(images)
    assert painted.shape == invented.shape == images.shape
    assert model.features(images) is None


def test_parts_must_fit() -> None:
    tokens = CNNEncoder((32, 32), dim=8, channels=8, strides=(2, 2, 2))
    with pytest.raises(ValueError, match=r"vectors of 6, the decoder vectors of 5 into images of \(32, 32\)"):
        VariationalAutoencoder(GaussianEncoder(tokens, 6), VectorDecoder(5, ImageDecoder(8, (4, 4))))
    with pytest.raises(ValueError, match=r"into images of \(64, 64\)"):
        VariationalAutoencoder(GaussianEncoder(tokens, 6), VectorDecoder(6, ImageDecoder(8, (8, 8))))
    with pytest.raises(ValueError, match="beta must be at least 0"):
        VariationalAutoencoder(GaussianEncoder(tokens, 6), VectorDecoder(6, ImageDecoder(8, (4, 4))), beta=-1)

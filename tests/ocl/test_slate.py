"""SLATE: its autoencoder and codes, its losses against plain transcriptions, cached generation, what trains what."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.decoders.codes import CodeDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.encoders.discrete import DiscreteAutoencoder, DiscreteEncoder, gumbel
from ocl.losses.codes import AutoencoderError, CodeCrossEntropy
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.shapes import Batch, Decoded, Features, Grouped, Output
from ocl.slate import SLATE
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.training import ObjectCentricTraining, Rate

SIZE, GRID, N = (12, 16), (3, 4), 12
VOCABULARY, WIDTH, DIM, K, B = 11, 24, 16, 3, 2


def encoder_of(steps: int = 10) -> DiscreteEncoder:
    return DiscreteEncoder(SIZE, DiscreteAutoencoder(VOCABULARY, 8), WIDTH, annealing_steps=steps)


def model_of() -> SLATE:
    return SLATE(
        encoder_of(),
        RandomSlots(K, DIM),
        SlotAttention(DIM, token_dim=WIDTH, hidden_dim=16),
        CodeDecoder(DIM, WIDTH, GRID, VOCABULARY, blocks=2, heads=3),
        TokenProjection(WIDTH, WIDTH),
    )


def batch_of() -> Batch:
    return Batch(torch.rand(B, 3, *SIZE))


def test_the_published_autoencoder_has_a_code_for_every_patch_of_four() -> None:
    autoencoder = DiscreteAutoencoder(1024)
    assert autoencoder.logits(torch.rand(1, 3, 64, 64)).shape == (1, 1024, 16, 16)
    assert autoencoder.paint(torch.zeros(1, 16, 16, dtype=torch.int64)).shape == (1, 3, 64, 64)
    weights = 2 * 1024 * 64 + (3 * 16 + 5 * 64 + 1 * 64) * 64  # 1 x 1 to and from the vocabulary, patches, 1 x 1
    weights += 2 * (9 * 64 + 64 + 64 + 4 * 64) * 64 + 64 * 3  # two doublings, to colours
    norms = 2 * 64 * (7 + 1 + 2 * 3) + 2 * 2 * 4 * 64
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == weights + norms + 1024 + 3


def test_painting_codes_is_painting_their_indicators() -> None:
    autoencoder = DiscreteAutoencoder(VOCABULARY, 8).double()
    codes = torch.randint(VOCABULARY, (B, *GRID))
    indicators = F.one_hot(codes, VOCABULARY).movedim(-1, 1).double()
    torch.testing.assert_close(autoencoder.paint(codes), autoencoder.paint_shares(indicators))
    cotangent = torch.randn(B, 3, *SIZE, dtype=torch.float64)
    weights = list(autoencoder.first.parameters()) + list(autoencoder.decoder.parameters())
    ours = torch.autograd.grad((autoencoder.paint(codes) * cotangent).sum(), weights)
    theirs = torch.autograd.grad((autoencoder.paint_shares(indicators) * cotangent).sum(), weights)
    for mine, plainly in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plainly)


def test_a_patch_is_coded_from_its_own_pixels_up_to_the_norms() -> None:
    """Permuting patches permutes codes: the encoder's convolutions do not overlap, its norms see all patches alike."""
    autoencoder, images = DiscreteAutoencoder(VOCABULARY, 8).double(), torch.rand(1, 3, 4, 16, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = images.unflatten(-1, (4, 4))[..., order, :].flatten(-2)
    torch.testing.assert_close(autoencoder.logits(shuffled), autoencoder.logits(images)[..., order])


def test_the_largest_of_logits_and_gumbel_noise_is_a_draw_from_the_softmax() -> None:
    logits = torch.tensor([1.0, -0.5, 0.0, 2.0]).expand(200_000, 4)
    drawn = (logits + gumbel(logits)).argmax(dim=1)
    frequency = torch.bincount(drawn, minlength=4) / len(drawn)
    expected = logits[0].softmax(dim=0)
    spread = (expected * (1 - expected) / len(drawn)).sqrt()
    assert ((frequency - expected).abs() < 5 * spread).all()
    noise = gumbel(torch.empty(200_000))
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.02)  # Euler's constant
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_the_temperature_falls_by_half_a_cosine_and_is_saved() -> None:
    encoder, found = encoder_of(steps=4), []
    for _ in range(6):
        found.append(float(encoder.temperature))
        encoder.after_step()
    half = 0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2
    assert found == pytest.approx([1.0, half, 0.55, 1.1 - half, 0.1, 0.1])
    other = encoder_of(steps=4)
    other.load_state_dict(encoder.state_dict())
    assert float(other.temperature) == pytest.approx(0.1)


def test_at_a_low_temperature_shares_are_the_drawn_codes() -> None:
    encoder = DiscreteEncoder(SIZE, DiscreteAutoencoder(VOCABULARY, 8), WIDTH, (1e-6, 1e-6)).double()
    logits = encoder.autoencoder.logits(torch.rand(B, 3, *SIZE, dtype=torch.float64))
    torch.manual_seed(3)
    painted = encoder._paint_drawn(logits)
    torch.manual_seed(3)
    torch.testing.assert_close(painted, encoder.autoencoder.paint((logits + gumbel(logits)).argmax(dim=1)))


def test_eval_codes_are_the_likeliest_and_repeat_themselves() -> None:
    encoder, batch = encoder_of().eval(), batch_of()
    first, again = encoder(batch.images), encoder(batch.images)
    likeliest = encoder.autoencoder.logits(batch.images).argmax(dim=1)
    assert torch.equal(first.codes, likeliest.flatten(1))
    assert torch.equal(first.codes, again.codes)
    torch.testing.assert_close(first.painted, encoder.autoencoder.paint(likeliest))
    plain = torch.stack([encoder.dictionary.weight[code] for code in first.codes.flatten()]).view(B, N, WIDTH)
    torch.testing.assert_close(first.tokens, plain + encoder.position)
    encoder.train()
    assert not torch.equal(encoder(batch.images).codes, encoder(batch.images).codes)


def test_losses_are_sums_over_an_image_as_written_with_indicators() -> None:
    model, batch = model_of(), batch_of()
    output = model(batch.images)
    features = output.features
    squared = ((batch.images - features.painted) ** 2).sum() / B
    torch.testing.assert_close(AutoencoderError()(output, batch), squared)
    target = F.one_hot(features.codes, VOCABULARY).float()
    written = -(target * torch.log_softmax(output.decoded.prediction, dim=-1)).flatten(1).sum(1).mean()
    torch.testing.assert_close(CodeCrossEntropy()(output, batch), written)
    even = Output(
        features, features, output.initial, output.slots, Decoded(torch.zeros(B, N, VOCABULARY), features.tokens)
    )
    assert float(CodeCrossEntropy()(even, batch)) == pytest.approx(N * math.log(VOCABULARY), rel=1e-5)


def reached(model: SLATE, loss: Tensor) -> set[str]:
    model.zero_grad()
    loss.backward()
    names = [name for name, one in model.named_parameters() if one.grad is not None and bool((one.grad != 0).any())]
    return {"autoencoder" if "autoencoder" in name else name.split(".")[0] for name in names}


def test_the_autoencoder_learns_from_its_own_error_alone() -> None:
    model, batch = model_of(), batch_of()
    assert reached(model, AutoencoderError()(model(batch.images), batch)) == {"autoencoder"}
    rest = {"encoder", "projection", "initial_slots", "grouping", "decoder"}
    assert reached(model, CodeCrossEntropy()(model(batch.images), batch)) == rest
    assert model.encoder.dictionary.weight.grad is not None
    assert model.encoder.position.grad is not None


def test_a_code_is_predicted_from_earlier_ones_and_the_slots() -> None:
    model, batch = model_of().eval(), batch_of()
    output = model(batch.images)
    tokens = output.features.tokens.detach().requires_grad_()
    slots = output.slots.vectors.detach().requires_grad_()
    output.slots.vectors = slots
    features = Features(tokens, GRID)
    logits = model.decoder(Grouped(features, features, output.initial, output.slots)).prediction
    for place in (0, 5, N - 1):
        to_tokens, to_slots = torch.autograd.grad(logits[:, place].square().sum(), (tokens, slots), retain_graph=True)
        assert set(to_tokens.abs().sum((0, 2)).nonzero().flatten().tolist()) == set(range(place))
        assert (to_slots != 0).any()


def test_cached_generation_equals_reading_the_whole_prefix_again() -> None:
    model, batch = model_of().double().eval(), batch_of()
    slots = model(batch.images.double()).slots
    codes = torch.zeros(B, N, dtype=torch.int64)
    for place in range(N):
        features = Features(model.encoder.embed(codes), GRID)
        grouped = Grouped(features, features, slots.vectors, slots)
        codes[:, place] = model.decoder(grouped).prediction[:, place].argmax(dim=-1)
    assert codes.unique().numel() > 1
    assert torch.equal(model.decoder.generate(slots, model.encoder.embed), codes)
    painted = model.paint(slots)
    torch.testing.assert_close(painted, model.encoder.autoencoder.paint(codes.unflatten(1, GRID)).clamp(0, 1))


def test_it_learns_to_paint_two_images_from_their_slots() -> None:
    """Joint training until every code is foretold; what is painted is then the autoencoder's own painting."""
    model = SLATE(
        DiscreteEncoder(SIZE, DiscreteAutoencoder(4, 16), WIDTH, annealing_steps=100),
        RandomSlots(K, DIM),
        SlotAttention(DIM, token_dim=WIDTH, hidden_dim=16),
        CodeDecoder(DIM, WIDTH, GRID, 4, blocks=2, heads=3),
    )
    images = torch.zeros(B, 3, *SIZE)
    images[0, 0, :, :8], images[1, 2, 4:, 4:] = 1, 1
    losses = nn.ModuleDict({"autoencoder": AutoencoderError(), "codes": CodeCrossEntropy()})
    rates = {"encoder.autoencoder": Rate(1e-2)}
    training = ObjectCentricTraining(model, dict(losses), lambda step: 1.0, learning_rate=3e-3, rates=rates)
    batch, optimiser = Batch(images), training.configure_optimizers()["optimizer"]
    for _ in range(450):
        optimiser.zero_grad()
        training._losses(model(images), batch)[0].backward()
        optimiser.step()
        model.encoder.after_step()
    model.eval()
    with torch.no_grad():
        output = model(images)
        assert torch.equal(model.decoder.generate(output.slots, model.encoder.embed), output.features.codes)
        assert float(losses["codes"](output, batch)) < 0.1 * N * math.log(4)
        error = (model.paint(output.slots) - images).square().mean()
    assert float(error) < 0.02 * float(images.var())


def test_bad_input_is_named() -> None:
    autoencoder = DiscreteAutoencoder(VOCABULARY, 8)
    with pytest.raises(ValueError, match="multiples of 4"):
        DiscreteEncoder((12, 14), autoencoder)
    with pytest.raises(ValueError, match="must not rise"):
        DiscreteEncoder(SIZE, autoencoder, temperature=(0.1, 1.0))
    with pytest.raises(ValueError, match="vocabulary of at least 2"):
        DiscreteAutoencoder(1)
    with pytest.raises(ValueError, match="images must be"):
        encoder_of()(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="they must agree"):
        SLATE(encoder_of(), RandomSlots(K, DIM), SlotAttention(DIM), CodeDecoder(DIM, WIDTH, GRID, 12, heads=3))
    model, batch = model_of(), batch_of()
    output = model(batch.images)
    output.slots.masks = None
    with pytest.raises(ValueError, match="CodeDecoder needs a grouping"):
        model.decoder(output)
    output.decoded = Decoded(torch.zeros(B, N + 1, VOCABULARY), output.features.tokens)
    with pytest.raises(ValueError, match=r"needs logits \(2, 12, V\)"):
        CodeCrossEntropy()(output, batch)
    plain = ObjectCentricModel(
        CNNEncoder(SIZE, WIDTH, 8, (2, 2)), RandomSlots(K, WIDTH), SlotAttention(WIDTH), model.decoder
    )
    plain.decoder.project_slots = torch.nn.Linear(WIDTH, WIDTH)
    plain.decoder.dim = WIDTH
    for loss in (AutoencoderError(), CodeCrossEntropy()):
        with pytest.raises(ValueError, match="tokens of a vocabulary"):
            loss(plain(batch.images), batch)

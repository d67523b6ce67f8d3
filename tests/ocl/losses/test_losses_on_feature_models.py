"""Cycles, SLASH and DIAS on models of features and codes: each adds its own equation, times its weight, and trains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.decoders.autoregressive import AutoregressiveDecoder
from ocl.decoders.codes import CodeDecoder
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.discrete import DiscreteAutoencoder, DiscreteEncoder
from ocl.encoders.tuned_vit import TunedViT
from ocl.encoders.vit import ViTEncoder
from ocl.losses.codes import AutoencoderError, CodeCrossEntropy
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.cycle_aims import PositiveSet
from ocl.losses.cycle_targets import EncoderTokens, MovingAverageEncoder
from ocl.losses.points import PointLoss
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.losses.settled_attention import SettledAttention
from ocl.losses.walks import SlotProjection, Walk
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.schedules import WarmupCosine
from ocl.shapes import Batch, Output
from ocl.slate import SLATE
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.slots.point_guidance import PointGuidance
from ocl.slots.refining import AttentionRefiningKernel
from ocl.training import ObjectCentricTraining

SIZE, GRID, N, K, DIM, READ = (16, 24), (4, 6), 24, 3, 16, 20
VIT = {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}
WEIGHT, TEMPERATURE, THRESHOLD = 0.3, 0.2, 0.5


def grouping_of() -> SlotAttention:
    """With all of SLASH in it."""
    kernel, points = AttentionRefiningKernel(3), PointGuidance(DIM)
    return SlotAttention(DIM, token_dim=READ, hidden_dim=16, kernel=kernel, points=points)


def parts() -> tuple[RandomSlots, SlotAttention, TokenProjection]:
    return RandomSlots(K, DIM), grouping_of(), TokenProjection(24, READ)


def dinosaur() -> ObjectCentricModel:
    starts, grouping, projection = parts()
    encoder = ViTEncoder("vit_tiny_patch16_224", SIZE, pretrained=False, arguments=VIT)
    return ObjectCentricModel(encoder, starts, grouping, MLPDecoder(DIM, 24, GRID, 16), projection)


def spot() -> ObjectCentricModel:
    starts, grouping, projection = parts()
    encoder = TunedViT("vit_tiny_patch16_224", SIZE, first_block=1, pretrained=False, arguments=VIT)
    decoder = AutoregressiveDecoder(DIM, 24, GRID, 2, 2, permuted=True)
    return ObjectCentricModel(encoder, starts, grouping, decoder, projection)


def ft_dinosaur() -> ObjectCentricModel:
    starts, grouping, projection = parts()
    encoder = TunedViT("vit_tiny_patch16_224", SIZE, pretrained=False, arguments=VIT)
    return ObjectCentricModel(encoder, starts, grouping, TopKDecoder(MLPDecoder(DIM, 24, GRID, 16), 2), projection)


def slate() -> SLATE:
    starts, grouping, projection = parts()
    encoder = DiscreteEncoder(SIZE, DiscreteAutoencoder(12, 8), 24)
    return SLATE(encoder, starts, grouping, CodeDecoder(DIM, 24, GRID, 12, 2, 2), projection)


MODELS = [dinosaur, spot, ft_dinosaur, slate]


def batch_of() -> Batch:
    places, known = torch.rand(4, 5, 2), torch.zeros(4, 5, dtype=torch.bool)
    known[:3, 1:3] = True
    return Batch(torch.rand(4, 3, *SIZE), objects={"points": places, "point_known": known})


def transitions(loss: nn.Module, output: Output) -> tuple[Tensor, Tensor]:
    """A (B K N) and B (B N K), as they are written down."""
    slots, tokens = loss.walk.embedding.linear(output.slots.vectors), output.tokens.tokens
    similarity = F.normalize(slots, dim=-1) @ F.normalize(tokens, dim=-1).mT / TEMPERATURE
    return similarity.softmax(dim=2), similarity.mT.softmax(dim=2)


def slot_cycle(loss: nn.Module, model: ObjectCentricModel, output: Output, batch: Batch) -> Tensor:
    to_features, to_slots = transitions(loss, output)
    return -(to_features @ to_slots).diagonal(dim1=1, dim2=2).log().mean()


def feature_cycle(loss: nn.Module, model: ObjectCentricModel, output: Output, batch: Batch) -> Tensor:
    to_features, to_slots = transitions(loss, output)
    target = F.normalize(output.features.tokens.detach(), dim=-1)
    alike = (target @ target.mT > THRESHOLD) | torch.eye(N, dtype=torch.bool)
    return -(to_slots @ to_features * alike).sum(dim=2).log().mean()


def points(loss: nn.Module, model: ObjectCentricModel, output: Output, batch: Batch) -> Tensor:
    found, match = output.slots.notes["points"], output.slots.notes["point_match"]  # (B T K 2), (B T K)
    total = torch.zeros(())
    for image, iteration, slot in (match >= 0).nonzero().tolist():
        place = batch.objects["points"][image, match[image, iteration, slot]]
        total = total + (found[image, iteration, slot] - place).square().sum()
    return total / (3 * K * 2)  # three images have known points


def settled(loss: nn.Module, model: ObjectCentricModel, output: Output, batch: Batch) -> Tensor:
    grouping = model.grouping
    keys = grouping.kernel(grouping.norm_tokens(output.tokens.tokens), GRID)
    query = grouping.query(grouping.norm_slots(output.initial)) * DIM**-0.5
    first = (query @ grouping.key(keys).mT).softmax(dim=1)
    return -(output.slots.masks.detach().flatten(2) * first.log()).sum(dim=1).mean()


def walk() -> Walk:
    return Walk(TEMPERATURE, embedding=SlotProjection(DIM, READ))


Equation = Callable[[nn.Module, ObjectCentricModel, Output, Batch], Tensor]
LOSSES: dict[str, tuple[Callable[[], nn.Module], Equation]] = {
    "slot cycle": (lambda: SlotFeatureSlot(walk()), slot_cycle),
    "feature cycle": (lambda: FeatureSlotFeature(PositiveSet(THRESHOLD, EncoderTokens()), walk()), feature_cycle),
    "points": (PointLoss, points),
    "settled": (SettledAttention, settled),
}


def training_of(model: ObjectCentricModel, name: str | None) -> ObjectCentricTraining:
    own = [AutoencoderError(), CodeCrossEntropy()] if isinstance(model, SLATE) else [FeatureReconstruction()]
    losses: dict[str, nn.Module] = {f"own {number}": loss for number, loss in enumerate(own)}
    if name is not None:
        losses["added"] = LOSSES[name][0]()
    weights = {"added": WEIGHT} if name else {}
    return ObjectCentricTraining(model, losses, WarmupCosine(100, 0), weights, learning_rate=1e-3)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_adds_its_equation_times_its_weight_and_trains(
    make: Callable[[], ObjectCentricModel], name: str
) -> None:
    model, batch = make(), batch_of()
    training = training_of(model, name)
    optimizer = training.configure_optimizers()["optimizer"]
    output = model(batch.images, hints=batch.hints)
    total, terms = training._losses(output, batch)
    others = sum(term for part, term in terms.items() if part != "added")
    torch.testing.assert_close(total - others, WEIGHT * terms["added"], rtol=1e-4, atol=1e-4)
    expected = LOSSES[name][1](training.losses["added"], model, output, batch)
    torch.testing.assert_close(terms["added"], expected, rtol=1e-4, atol=1e-5)

    (gradient,) = torch.autograd.grad(terms["added"], model.grouping.query.weight, retain_graph=True)
    assert (gradient != 0).any()
    total.backward()
    before = {key: value.detach().clone() for key, value in training.named_parameters()}
    optimizer.step()
    after = dict(training.named_parameters())
    assert all(bool(value.isfinite().all()) for value in after.values())
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {"model.grouping.kernel.weight", "model.grouping.points.encoder.0.weight"} <= changed
    assert not [key for key in changed if key.startswith("model.encoder.vit.")]


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_a_kernel_smooths_the_logits_of_a_feature_model(make: Callable[[], ObjectCentricModel]) -> None:
    """The one of SLASH: its convolution of the unsmoothed logits, over the grid of tokens."""
    model, batch = make().eval(), batch_of()
    kernel = model.grouping.kernel
    with torch.no_grad():
        kernel.weight.copy_(torch.rand(3, 3))
        grouped = model.group(model.encoder(batch.images), iterations=1)
        grouping = model.grouping
        query = grouping.query(grouping.norm_slots(grouped.initial)) * DIM**-0.5
        logits = (query @ grouping.key(grouping.norm_tokens(grouped.tokens.tokens)).mT).unflatten(-1, GRID)
        smooth = F.conv2d(logits.flatten(0, 1)[:, None], kernel.kernel()[None, None], padding=1).view_as(logits)
    torch.testing.assert_close(grouped.slots.masks, smooth.softmax(dim=1))


def test_the_moving_average_of_a_tuned_encoder_is_of_what_the_grouping_reads() -> None:
    model, batch, target = ft_dinosaur(), batch_of(), MovingAverageEncoder(0.5)
    with torch.no_grad():
        for parameter in model.encoder.tuned.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    target.attach(model)
    output = model(batch.images)
    torch.testing.assert_close(target(output, batch), output.tokens.tokens)
    assert not torch.allclose(output.tokens.tokens, model.projection(output.features.tokens), atol=1e-2)

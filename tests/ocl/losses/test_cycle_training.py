"""Cycle losses on whole models: whom gradients reach, what targets are made of, and training from a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from ocl import checkpoints
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.patch import PatchDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.encoders.vit import ViTEncoder
from ocl.fit import run
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.cycle_aims import Aim, Diagonal, PositiveSet, SoftTarget
from ocl.losses.cycle_targets import EncoderTokens, FrozenEncoder, MovingAverageEncoder, Target, on_grid
from ocl.losses.reconstruction import PixelReconstruction
from ocl.losses.walks import AttentionProjections, Walk
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.schedules import WarmupCosine
from ocl.shapes import Batch, Features, Output
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.training import ObjectCentricTraining

SIZE = (12, 16)
SLOTS, DIM = 3, 8


def pixel_model() -> ObjectCentricModel:
    """A 6 x 8 grid of tokens."""
    return ObjectCentricModel(
        CNNEncoder(SIZE, DIM, channels=4, strides=(2, 1)),
        RandomSlots(SLOTS, DIM),
        SlotAttention(DIM, hidden_dim=8),
        PatchDecoder(DIM, (6, 8), 2, 8, 1),
    )


def vit(image_size: tuple[int, int]) -> ViTEncoder:
    return ViTEncoder("vit_tiny_patch16_224", image_size, pretrained=False)


def feature_model() -> ObjectCentricModel:
    """A 2 x 3 grid of frozen tokens, projected."""
    encoder = vit((32, 48))
    return ObjectCentricModel(
        encoder,
        RandomSlots(SLOTS, DIM),
        SlotAttention(DIM, hidden_dim=8),
        MLPDecoder(DIM, encoder.dim, encoder.grid, 8, 1),
        projection=TokenProjection(encoder.dim, DIM),
    )


def images(size: tuple[int, int] = SIZE) -> Batch:
    return Batch(torch.rand(2, 3, *size))


def reached(model: nn.Module, loss: Tensor) -> set[str]:
    """The model's parts that get a gradient from the loss."""
    model.zero_grad()
    loss.backward()
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    return {name.split(".")[0] for name in moved}


def losses(walk: Walk) -> list[SlotFeatureSlot | FeatureSlotFeature]:
    aims: list[Aim] = [PositiveSet(0.2), Diagonal(), Diagonal(1.0), SoftTarget(0.2)]
    return [SlotFeatureSlot(walk), SlotFeatureSlot(walk, 1.0), *(FeatureSlotFeature(aim, walk) for aim in aims)]


@pytest.mark.parametrize("index", range(6))
def test_gradients_reach_slots_and_encoder_or_the_grouping_alone(index: int) -> None:
    for detach, expected in ((False, {"encoder", "initial_slots", "grouping"}), (True, {"grouping"})):
        model, batch = pixel_model(), images()
        loss = losses(Walk(detach_features=detach))[index]
        loss.attach(model)
        assert reached(model, loss(model(batch.images), batch)) == expected


def test_detached_walks_have_the_value_of_attached_ones() -> None:
    model, batch = pixel_model(), images()
    output = model(batch.images)
    for walk, detached in zip(losses(Walk()), losses(Walk(detach_features=True)), strict=True):
        detached.attach(model)
        torch.testing.assert_close(detached(output, batch), walk(output, batch))


def test_attention_projections_are_the_groupings_own() -> None:
    model, batch = pixel_model(), images()
    embedding = AttentionProjections()
    loss = SlotFeatureSlot(Walk(embedding=embedding))
    loss.attach(model)
    output = model(batch.images)
    query, key = embedding(output.slots.vectors, output.tokens.tokens)
    attention = (query @ key.mT * DIM**-0.5).softmax(dim=1)  # one more step of the competition
    again = model.grouping(output.tokens, output.slots.vectors, 1).masks
    torch.testing.assert_close(attention, again.flatten(2))
    assert not list(loss.parameters())
    assert reached(model, loss(output, batch)) == {"encoder", "initial_slots", "grouping"}
    model.grouping = nn.Identity()
    with pytest.raises(ValueError, match="Identity has no query and key"):
        loss.attach(model)


class Probe(Target):
    """A target that asks for a gradient and must not get one."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(2, 48, 5))

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return self.vectors * 1


@pytest.mark.parametrize("aim", [PositiveSet, SoftTarget])
def test_targets_get_no_gradient(aim: type[PositiveSet | SoftTarget]) -> None:
    model, batch, target = pixel_model(), images(), Probe()
    loss = FeatureSlotFeature(aim(0.2, target=target))(model(batch.images), batch)
    loss.backward()
    assert target.vectors.grad is None


def test_a_target_of_another_size_is_named() -> None:
    model, batch, target = pixel_model(), images(), Probe()
    target.vectors = nn.Parameter(torch.randn(2, 47, 5))
    with pytest.raises(ValueError, match=r"Probe gives \(2, 47, 5\), not \(2, 48\) vectors"):
        FeatureSlotFeature(PositiveSet(target=target))(model(batch.images), batch)


def test_a_frozen_backbone_is_brought_to_the_token_grid() -> None:
    model, batch = pixel_model(), images()
    target = FrozenEncoder(vit((48, 64)), image_size=(48, 64))  # a 3 x 4 grid
    loss = FeatureSlotFeature(PositiveSet(0.2, target))
    assert target(model(batch.images), batch).shape == (2, 48, 192)
    assert reached(model, loss(model(batch.images), batch)) == {"encoder", "initial_slots", "grouping"}
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    loss.train()
    assert not target.encoder.training


def test_resizing_is_bilinear() -> None:
    """A ramp stays a ramp away from the border, and a grid that fits is left alone."""
    ramp = torch.arange(4.0).expand(3, 4).reshape(1, 12, 1)
    same = Features(ramp, (3, 4))
    assert on_grid(same, (3, 4)) is ramp
    finer = on_grid(same, (6, 8)).view(6, 8)
    torch.testing.assert_close(finer[:, 1:-1], (torch.arange(1.0, 7) * 0.5 - 0.25).expand(6, 6))
    assert on_grid(same, (3, 2)).view(3, 2).diff(dim=1).gt(1).all()


def test_the_average_moves_by_one_minus_momentum_and_holds_no_gradient() -> None:
    model, target = pixel_model(), MovingAverageEncoder(0.9)
    target.attach(model)
    before = copy.deepcopy(target.average)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    target.after_step()
    pairs = zip(target.average.encoder.parameters(), before.encoder.parameters(), strict=True)
    for (average, start), online in zip(pairs, model.encoder.parameters(), strict=True):
        assert not average.requires_grad
        torch.testing.assert_close(average - start, 0.1 * (online - start), rtol=1e-4, atol=1e-7)
        assert (average - start).abs().max() > 0.01
    assert not any("encoder.encoder" in name for name in dict(model.named_parameters()))
    target.train()
    assert not target.average.encoder.training


def test_the_average_of_a_frozen_model_is_that_of_its_projection() -> None:
    model, target, batch = feature_model(), MovingAverageEncoder(0.5), images((32, 48))
    target.attach(model)
    assert set(target.average) == {"projection"}
    output = model(batch.images)
    torch.testing.assert_close(target(output, batch), output.tokens.tokens)  # not yet moved
    torch.testing.assert_close(EncoderTokens()(output, batch), output.features.tokens)
    model.projection.requires_grad_(False)
    with pytest.raises(ValueError, match="this model has none"):
        target.attach(model)
    with pytest.raises(ValueError, match="momentum must lie in"):
        MovingAverageEncoder(1.5)
    with pytest.raises(ValueError, match="attach"):
        MovingAverageEncoder()(output, batch)


def gradients(weights: dict[str, float], parts: dict[str, nn.Module]) -> list[Tensor]:
    torch.manual_seed(1)
    model = pixel_model()
    training = ObjectCentricTraining(model, parts, WarmupCosine(10, 1), weights)
    torch.manual_seed(2)
    batch = images()
    total, _ = training._losses(model(batch.images), batch)
    return list(torch.autograd.grad(total, list(model.parameters()), allow_unused=True))


def test_the_weight_scales_the_added_gradient() -> None:
    parts = {"reconstruction": PixelReconstruction(), "slots": SlotFeatureSlot(), "features": FeatureSlotFeature()}

    def added(weight: float) -> list[Tensor]:
        both = gradients({"slots": weight, "features": weight}, parts)
        none = gradients({"slots": 0.0, "features": 0.0}, parts)
        return [one - other for one, other in zip(both, none, strict=True) if one is not None]

    for once, thrice in zip(added(1.0), added(3.0), strict=True):
        torch.testing.assert_close(thrice, 3 * once, rtol=1e-3, atol=1e-6)
    assert max(once.abs().max() for once in added(1.0)) > 1e-3


def node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


PIXELS = node(
    "ocl.model.ObjectCentricModel",
    encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[64, 64], dim=16, channels=8, strides=[4, 2]),
    initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=4, dim=16),
    grouping=node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16),
    decoder=node("ocl.decoders.patch.PatchDecoder", dim=16, grid=[8, 8], patch=4, hidden_dim=16, hidden_layers=1),
)
FEATURES = node(
    "ocl.model.ObjectCentricModel",
    encoder=node("ocl.encoders.vit.ViTEncoder", name="vit_tiny_patch16_224", image_size=[64, 64], pretrained=False),
    projection=node("ocl.model.TokenProjection", token_dim=192, dim=24),
    initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=3, dim=16),
    grouping=node("ocl.slots.attention.SlotAttention", dim=16, token_dim=24, hidden_dim=16),
    decoder=node("ocl.decoders.mlp.MLPDecoder", dim=16, feature_dim=192, grid=[4, 4], hidden_dim=16, hidden_layers=1),
)
PIXEL_CYCLE = {
    "slot_cycle": node("ocl.losses.cycle.SlotFeatureSlot", walk={"active_only": True}),
    "feature_cycle": node(
        "ocl.losses.cycle.FeatureSlotFeature",
        aim=node("ocl.losses.cycle_aims.PositiveSet", target=node("ocl.losses.cycle_targets.MovingAverageEncoder")),
    ),
}
FEATURE_CYCLE = {
    "slot_cycle": node(
        "ocl.losses.cycle.SlotFeatureSlot",
        walk={"embedding": node("ocl.losses.walks.SlotProjection", dim=16, token_dim=24)},
        second_temperature=1.0,
    ),
    "feature_cycle": node(
        "ocl.losses.cycle.FeatureSlotFeature",
        aim=node("ocl.losses.cycle_aims.SoftTarget", target=node("ocl.losses.cycle_targets.EncoderTokens")),
        walk={"embedding": node("ocl.losses.walks.AttentionProjections"), "detach_features": True},
    ),
}


def fit(root: Path, model: dict[str, Any], losses: dict[str, Any], weight: float, steps: int = 6) -> dict[str, Tensor]:
    """The trained model's weights."""
    kind = "FeatureReconstruction" if model is FEATURES else "PixelReconstruction"
    scenes = "ocl.data.sprite_scenes.SpriteScenes"
    config = {
        "seed_everything": 3,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": steps,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "model": model,
            "losses": {"reconstruction": node(f"ocl.losses.reconstruction.{kind}"), **losses},
            "weights": dict.fromkeys(losses, weight),
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=8, warmup_steps=2),
            "learning_rate": 1e-2,
        },
        "data": {
            "train": node(scenes, size=32, seed=0),
            "val": node(scenes, size=4, seed=1),
            "batch_size": 4,
            "num_workers": 0,
        },
        "checkpoint_every": 3,
        "pictures": 0,
    }
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(path)])
    return checkpoints.load(root / "model").state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one | other)


@pytest.fixture(scope="module")
def pixel_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    root = tmp_path_factory.mktemp("runs") / "pixels"
    return root, fit(root, PIXELS, PIXEL_CYCLE, 0.1)


def check_attached(model: dict[str, Any], cycle: dict[str, Any], trained: dict[str, Tensor], folder: Path) -> None:
    """They change training, unless their weight is 0: then not one bit; the exported model holds the model alone."""
    base = fit(folder / "base", model, {}, 0.0)
    assert equal(fit(folder / "off", model, cycle, 0.0), base)
    assert set(trained) == set(base)
    assert not equal(trained, base)
    assert all(tensor.isfinite().all() for tensor in trained.values())


def test_attached_from_a_file_to_a_pixel_model(pixel_run: tuple[Path, dict[str, Tensor]], tmp_path: Path) -> None:
    check_attached(PIXELS, PIXEL_CYCLE, pixel_run[1], tmp_path)


def test_attached_from_a_file_to_a_feature_model(tmp_path: Path) -> None:
    check_attached(FEATURES, FEATURE_CYCLE, fit(tmp_path / "on", FEATURES, FEATURE_CYCLE, 0.1), tmp_path)


def test_a_resumed_run_continues_with_the_same_average(
    pixel_run: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    def average(root: Path) -> dict[str, Tensor]:
        state = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        return {name: tensor for name, tensor in state.items() if ".average." in name}

    whole, weights = pixel_run
    fit(tmp_path / "halves", PIXELS, PIXEL_CYCLE, 0.1, steps=3)
    half_way = average(tmp_path / "halves")
    assert equal(fit(tmp_path / "halves", PIXELS, PIXEL_CYCLE, 0.1), weights)
    assert equal(average(tmp_path / "halves"), average(whole))
    assert half_way
    assert not equal(half_way, average(whole))

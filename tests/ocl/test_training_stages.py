"""Parts of a model at their own rates, and models that start from the weights of another training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from ocl import checkpoints
from ocl.fit import run
from ocl.instantiate import instantiate
from ocl.losses.cycle import SlotFeatureSlot
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.losses.walks import SlotProjection, Walk
from ocl.schedules import WarmupCosine, WarmupHalving
from ocl.starting_weights import take_weights
from ocl.training import ObjectCentricTraining, Rate

DEPTH = 2


def node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def tree(size: int = 16, width: int = 16, tuned: bool = True, slots: int = 3) -> dict[str, Any]:
    """A model of patches of 8 pixels."""
    kind = "tuned_vit.TunedViT" if tuned else "vit.ViTEncoder"
    vit = {"patch_size": 8, "depth": DEPTH, "embed_dim": 24, "num_heads": 2}
    encoder = node(
        f"ocl.encoders.{kind}", name="vit_tiny_patch16_224", image_size=[size, size], pretrained=False, arguments=vit
    )
    mlp = node("ocl.decoders.mlp.MLPDecoder", dim=width, feature_dim=24, grid=[size // 8] * 2, hidden_dim=16)
    return node(
        "ocl.model.ObjectCentricModel",
        encoder=encoder,
        projection=node("ocl.model.TokenProjection", token_dim=24, dim=width),
        initial_slots=node("ocl.slots.initial.LearnedSlots", num_slots=slots, dim=width),
        grouping=node("ocl.slots.attention.SlotAttention", dim=width, hidden_dim=16),
        decoder=node("ocl.decoders.top_k.TopKDecoder", decoder=mlp, k=2),
    )


def training_of(rates: dict[str, Rate], **losses: nn.Module) -> ObjectCentricTraining:
    parts = {"features": FeatureReconstruction(), **losses}
    return ObjectCentricTraining(instantiate(tree()), parts, WarmupCosine(100, 10), learning_rate=1e-3, rates=rates)


def rates_by_name(training: ObjectCentricTraining) -> tuple[dict[str, float], dict[str, float]]:
    """Name of every trained weight -> its rate at the first step and after four."""
    configured = training.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    names = {id(parameter): name for name, parameter in training.named_parameters()}

    def now() -> dict[str, float]:
        return {names[id(one)]: group["lr"] for group in optimizer.param_groups for one in group["params"]}

    first = now()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    return first, now()


def test_every_weight_has_one_rate_and_the_inner_part_counts() -> None:
    walk = Walk(embedding=SlotProjection(16, 16))
    rates = {
        "encoder": Rate(1e-5),
        "encoder.tuned.1": Rate(1e-4, WarmupHalving(0, 2)),
        "decoder": Rate(2e-3, lambda step: 1.0),
    }
    training = training_of(rates, cycle=SlotFeatureSlot(walk))
    first, later = rates_by_name(training)
    assert set(first) == {name for name, parameter in training.named_parameters() if parameter.requires_grad}
    for name in first:
        if name.startswith("model.encoder.tuned.1."):
            assert (first[name], later[name]) == pytest.approx((1e-4, 1e-4 / 4))
        elif name.startswith("model.encoder."):
            assert (first[name], later[name]) == pytest.approx((1e-6, 5e-6))
        elif name.startswith("model.decoder."):
            assert (first[name], later[name]) == pytest.approx((2e-3, 2e-3))
        else:
            assert (first[name], later[name]) == pytest.approx((1e-4, 5e-4))
    assert "losses.cycle.walk.embedding.linear.weight" in first


def test_a_prefix_of_a_name_is_not_a_part() -> None:
    for part in ("encode", "encoder.vit", "nothing"):
        with pytest.raises(ValueError, match=f"rates name '{part}'"):
            training_of({part: Rate(1e-4)})


def test_trained_weights_are_taken_frozen_ones_and_counters_stay(tmp_path: Path) -> None:
    source = instantiate(tree())
    checkpoints.save(tree(), source, tmp_path / "model")
    model = instantiate(tree())
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    take_weights(model, tmp_path / "model")
    own, given = dict(model.named_parameters()), dict(source.named_parameters())
    assert frozen
    for name, value in own.items():
        assert torch.equal(value, frozen[name] if name in frozen else given[name]), name
    differ = [name for name in frozen if not torch.equal(frozen[name], given[name])]
    assert differ, "other frozen weights than the checkpoint's"


def test_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    small, large = tree(16), tree(40)
    source = instantiate(small)
    checkpoints.save(small, source, tmp_path / "model")
    training = ObjectCentricTraining(
        instantiate(large), {"features": FeatureReconstruction()}, WarmupCosine(10), start_from=tmp_path / "model"
    )
    position = training.model.decoder.decoder.position
    expected = resample_abs_pos_embed(source.decoder.decoder.position[None], [5, 5], [2, 2], 0)[0]
    torch.testing.assert_close(position.detach(), expected.detach())
    mean = source.decoder.decoder.position.mean(dim=0)
    torch.testing.assert_close(position.mean(dim=0), mean, rtol=0.2, atol=0.01)
    assert torch.equal(training.model.encoder.tuned[1].attn.qkv.weight, source.encoder.tuned[1].attn.qkv.weight)
    assert training.model(torch.rand(1, 3, 40, 40)).decoded.masks.shape == (1, 3, 5, 5)


def test_another_model_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tree(), instantiate(tree()), tmp_path / "model")
    with pytest.raises(ValueError, match=r"initial_slots.slots is \(3, 16\) in the checkpoint and \(4, 16\)"):
        take_weights(instantiate(tree(slots=4)), tmp_path / "model")
    with pytest.raises(ValueError, match="only positions of another grid"):
        take_weights(instantiate(tree(width=8)), tmp_path / "model")
    checkpoints.save(tree(tuned=False), instantiate(tree(tuned=False)), tmp_path / "other")
    with pytest.raises(ValueError, match=r"has no encoder\.tuned"):
        take_weights(instantiate(tree()), tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        take_weights(instantiate(tree()), tmp_path / "absent")


def fit(root: Path, model: dict[str, Any], size: int, steps: int, **settings: Any) -> nn.Module:
    scenes = "ocl.data.sprite_scenes.SpriteScenes"
    config = {
        "seed_everything": 3,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": steps,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "model": model,
            "losses": {"reconstruction": node("ocl.losses.reconstruction.FeatureReconstruction")},
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=8, warmup_steps=2),
            "learning_rate": 1e-2,
            "rates": {"encoder": {"learning_rate": 1e-3, "schedule": node("ocl.schedules.WarmupHalving")}},
            **settings,
        },
        "data": {
            "train": node(scenes, size=32, seed=0, image_size=size),
            "val": node(scenes, size=4, seed=1, image_size=size),
            "batch_size": 4,
            "num_workers": 0,
        },
        "checkpoint_every": 2,
        "pictures": 0,
    }
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(path)])
    return checkpoints.load(root / "model")


def test_two_stages_from_files_and_a_resumed_second(tmp_path: Path) -> None:
    """Two resolutions; a killed second stage goes on from its own checkpoint, not from the first stage's."""
    first = fit(tmp_path / "first", tree(16), 16, 4)
    start = {"start_from": str(tmp_path / "first" / "model")}
    untouched = instantiate(tree(32))
    take_weights(untouched, tmp_path / "first" / "model")
    whole = fit(tmp_path / "whole", tree(32), 32, 4, **start)
    halves = fit(tmp_path / "halves", tree(32), 32, 2, **start)
    after_two = {name: value.clone() for name, value in halves.state_dict().items()}
    halves = fit(tmp_path / "halves", tree(32), 32, 4, **start)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, halves.state_dict()[name]), name
    trained = [name for name, parameter in untouched.named_parameters() if parameter.requires_grad]
    assert any(not torch.equal(whole.get_parameter(name), after_two[name]) for name in trained)
    # Two small steps away from the first stage, far from a random start.
    weight = "encoder.tuned.0.mlp.fc1.weight"
    step = (after_two[weight] - untouched.get_parameter(weight).detach()).abs().max()
    assert 0 < float(step) < 1e-3
    assert torch.equal(untouched.get_parameter(weight), first.get_parameter(weight))

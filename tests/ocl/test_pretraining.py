"""`ocl fit` pretrains encoders, goes on bit for bit after a stop, and leaves what agents and readers of ViTs take."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

import ocl
from ocl.data.collate import collate
from ocl.data.twin_scenes import TwinScenes
from ocl.encoders.vit import ViTEncoder
from ocl.encoders.vit_layers import ViTLayers
from ocl.fit import run
from ocl.instantiate import instantiate
from ocl.objectives.masked_autoencoder import MaskedAutoencoder
from ocl.objectives.self_distillation import SelfDistillation
from ocl.objectives.views import MultiCrop
from ocl.objectives.vit import TrainableViT
from ocl.pretraining import Pretraining
from ocl.representations import Tokens, ViTPatches, ViTPooled, WholeImage
from ocl.schedules import WarmupCosine
from ocl.shapes import Batch

STEPS = 8
NAME = "vit_tiny_patch16_224"
SMALL = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}


def node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


VIT = node("ocl.objectives.vit.TrainableViT", name=NAME, image_size=[32, 32], arguments=SMALL)
CNN = node("ocl.encoders.cnn.CNNEncoder", image_size=[32, 32], dim=8, channels=8, strides=[2, 2, 2])
DECODER = node("ocl.objectives.autoencoder.ImageDecoder", dim=8, grid=[4, 4], channels=8)
OBJECTIVES = {
    "mae": node("ocl.objectives.masked_autoencoder.MaskedAutoencoder", vit=VIT, decoder_dim=24, decoder_depth=1),
    "dino": node(
        "ocl.objectives.self_distillation.SelfDistillation",
        vit=VIT,
        views=node("ocl.objectives.views.MultiCrop", large=32, small=16, count=1),
        total_steps=STEPS,
        prototypes=16,
        hidden_dim=16,
        bottleneck=8,
    ),
    "labels": node("ocl.objectives.class_presence.ClassPresence", vit=VIT, classes=42),
    "vae": node(
        "ocl.objectives.variational.VariationalAutoencoder",
        encoder=node("ocl.encoders.gaussian.GaussianEncoder", tokens=CNN, dim=6),
        decoder=node("ocl.objectives.variational.VectorDecoder", dim=6, tokens=DECODER),
    ),
    "autoencoder": node("ocl.objectives.autoencoder.Autoencoder", encoder=CNN, decoder=DECODER),
}
WITH_VIT = ("mae", "dino", "labels")


def fit(root: Path, objective: str, steps: int = STEPS, **settings: Any) -> None:
    scenes = "ocl.data.twin_scenes.TwinScenes"
    content = {
        "seed_everything": 3,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": steps,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "objective": OBJECTIVES[objective],
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS),
            **settings,
        },
        "data": {
            "train": node(scenes, size=64, seed=0, block=8, image_size=32),
            "val": node(scenes, size=8, seed=1, block=8, image_size=32),
            "batch_size": 8,
        },
        "checkpoint_every": 2,
        "pictures": 2,
    }
    root.mkdir(parents=True, exist_ok=True)
    path = root.with_name(f"{root.name}-{steps}.yaml")
    path.write_text(yaml.safe_dump(content))
    run(["fit", "--config", str(path)])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stopped_run_goes_on_bit_for_bit(objective: str, tmp_path: Path) -> None:
    fit(tmp_path / "whole", objective)
    fit(tmp_path / "stopped", objective, steps=5)
    fit(tmp_path / "stopped", objective)
    expected, found = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "stopped"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    states = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "stopped")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    prefix = "objective.vit." if objective in WITH_VIT else "objective."
    for name, value in expected.items():  # the teacher's, where there is one
        kept = prefix + (name.removeprefix("encoder.") if objective in WITH_VIT else name)
        assert torch.equal(states[0][kept], value)


def test_a_run_leaves_weights_for_every_reader(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fit(root, "mae")
    rows = list(csv.DictReader((root / "logs" / "version_0" / "metrics.csv").open()))
    assert len([row for row in rows if row["train/loss"]]) == STEPS
    assert len([row for row in rows if row["val/loss"]]) == 2
    assert len(list((root / "pictures").glob("*.png"))) == 2
    assert list(root.glob("tensorboard/version_0/events*"))
    images = collate(TwinScenes(3, image_size=32).__getitems__(range(3))).images / 255
    arguments = {"image_size": (32, 32), "weights": str(root / "vit.safetensors"), "arguments": SMALL}
    encoder = ViTEncoder(NAME, **arguments)
    plain = timm.create_model(NAME, img_size=32, num_classes=0, **SMALL).eval()
    plain.load_state_dict(load_file(root / "vit.safetensors"))
    expected = plain.forward_features(2 * images - 1)[:, 1:]  # the name's own mean and deviation are 0.5
    torch.testing.assert_close(plain.norm(encoder(images).tokens), expected)
    torch.testing.assert_close(ViTLayers(NAME, **arguments)(images)[-1], encoder(images).tokens)
    stored = ocl.load(root / "model")
    assert isinstance(stored, ViTPatches)
    assert torch.equal(stored.encoder(images).tokens, encoder(images).tokens)
    pooled = ocl.load(root / "pooled")
    assert isinstance(pooled, ViTPooled)
    torch.testing.assert_close(pooled(Batch(images)).vectors[:, 0], plain(2 * images - 1))
    deeper = {**arguments, "arguments": {**SMALL, "depth": 3}}
    with pytest.raises(ValueError, match="lacks 4 of the weights"):
        ViTEncoder(NAME, **deeper)


@pytest.mark.parametrize(
    ("objective", "kind", "slots"), [("vae", WholeImage, (1, 6)), ("autoencoder", Tokens, (16, 8))]
)
def test_a_run_leaves_an_encoder_for_agents(objective: str, kind: type, slots: tuple[int, int], tmp_path: Path) -> None:
    fit(tmp_path / "run", objective, steps=2)
    encoder = ocl.load(tmp_path / "run" / "model")
    assert isinstance(encoder, kind)
    assert (encoder.num_slots, encoder.dim) == slots
    assert encoder.fingerprint == ocl.load(tmp_path / "run" / "model").fingerprint
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    trained = instantiate(OBJECTIVES[objective])
    trained.load_state_dict({name.removeprefix("objective."): value for name, value in state.items()})
    images = torch.rand(3, 3, 32, 32)
    found: Any = trained.encoder(images)  # type: ignore[operator]
    expected = found.tokens if objective == "autoencoder" else found.unsqueeze(1)
    torch.testing.assert_close(encoder(Batch(images)).vectors, expected)


def test_decay_is_for_matrices_and_the_teacher_is_not_trained() -> None:
    vit = TrainableViT(NAME, (32, 32), SMALL)
    module = Pretraining(
        SelfDistillation(vit, MultiCrop(32, 16), 10), WarmupCosine(10), learning_rate=0.1, weight_decay=0.3
    )
    matrices, others = module.configure_optimizers()["optimizer"].param_groups
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.3, 0)
    assert {parameter.ndim for parameter in matrices["params"]} == {2, 4}
    teacher = {id(parameter) for parameter in [*module.objective.vit.parameters(), *module.objective.head.parameters()]}
    trained = {id(parameter) for group in (matrices, others) for parameter in group["params"]}
    assert not teacher & trained
    student = {id(p) for name, p in module.objective.student.named_parameters() if name != "vit.pos_embed"}
    assert student < trained
    assert any(parameter is vit.vit.cls_token for parameter in others["params"])


def test_the_loss_goes_down_on_scenes() -> None:
    model = MaskedAutoencoder(TrainableViT(NAME, (32, 32), SMALL), decoder_dim=24, decoder_depth=1)
    batch = collate(TwinScenes(32, image_size=32).__getitems__(range(32)))
    batch.images = batch.images / 255
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    module = Pretraining(MaskedAutoencoder(TrainableViT(NAME, (32, 32), SMALL)), WarmupCosine(10))
    with pytest.raises(ValueError, match=r"made for images of \(32, 32\), the data set gives \(64, 64\)"):
        module.training_step(collate(TwinScenes(2).__getitems__(range(2))), 0)
    with pytest.raises(ValueError, match="no absolute position"):
        TrainableViT("vit_small_patch16_rope_224.naver_in1k", (32, 32))
    with pytest.raises(ValueError, match="no absolute position embedding, or not that alone"):
        TrainableViT("eva02_tiny_patch14_224", (28, 28))
    with pytest.raises(ValueError, match=r"the loss is (nan|inf)"):
        fit(tmp_path / "run", "mae", learning_rate=1e30)

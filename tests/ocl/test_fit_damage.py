"""A run whose files were damaged is refused in one sentence, and a run is measured by its own weights."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from ocl.fit import run
from ocl.model import ObjectCentricModel

STEPS = 4


def settings(root: Path) -> dict:
    def node(path: str, **arguments: object) -> dict:
        return {"class_path": path, "init_args": arguments}

    model = node(
        "ocl.model.ObjectCentricModel",
        encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[35, 35], dim=8, channels=4, strides=[4, 2]),
        initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=3, dim=8),
        grouping=node("ocl.slots.attention.SlotAttention", dim=8, hidden_dim=8),
        decoder=node("ocl.decoders.broadcast.BroadcastDecoder", dim=8, grid=[5, 5], channels=4, strides=[1]),
    )
    return {
        "seed_everything": 3,
        "pictures": 0,
        "checkpoint_every": 2,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": STEPS,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "model": model,
            "losses": {"reconstruction": node("ocl.losses.reconstruction.PixelReconstruction")},
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS, warmup_steps=1),
            "learning_rate": 0.01,
        },
        "data": {
            "train": node("ocl.data.tetrominoes.Tetrominoes", size=16, seed=0, block=4),
            "val": node("ocl.data.tetrominoes.Tetrominoes", size=4, seed=1, block=4),
            "batch_size": 4,
        },
    }


def start(root: Path, word: str = "fit", learning_rate: float = 0.01, **data: object) -> object:
    content = settings(root)
    content["model"]["learning_rate"] = learning_rate
    content["data"] |= data
    path = root.parent / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return run([word, "--config", str(path)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs") / "finished"
    start(root)
    return root


def test_a_damaged_training_checkpoint_is_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "finished")
    path = tmp_path / "finished" / "checkpoints" / "last.ckpt"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"last\.ckpt is no whole training checkpoint"):
        start(tmp_path / "finished")


@pytest.mark.parametrize(
    "text", [None, "", "a: [", "- 1", "\xff"], ids=["missing", "empty", "no YAML", "a list", "bytes"]
)
def test_a_checkpoint_without_its_config_is_refused(text: str | None, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "finished")
    path = tmp_path / "finished" / "config.yaml"
    path.unlink() if text is None else path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.yaml is missing or damaged"):
        start(tmp_path / "finished")


def test_validation_measures_the_last_checkpoint_on_any_data(finished: Path) -> None:
    trained = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    other = {"class_path": "ocl.data.tetrominoes.Tetrominoes", "init_args": {"size": 8, "seed": 7, "block": 4}}
    measured = start(finished, "validate", val=other, batch_size=2).model.model  # type: ignore[attr-defined]
    assert isinstance(measured, ObjectCentricModel)
    for name, value in measured.state_dict().items():
        assert torch.equal(value, trained[f"model.{name}"]), name


@pytest.mark.parametrize("rate", [-0.01, float("nan")])
def test_training_never_climbs(rate: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"learning rates must be finite and not negative, got {rate}"):
        start(tmp_path / "run", learning_rate=rate)


def test_weights_that_are_not_finite_are_no_model(tmp_path: Path) -> None:
    content = settings(tmp_path / "run")
    content["model"]["learning_rate"] = 1e30
    content["trainer"]["limit_val_batches"] = 0
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=r"holds NaN or infinity after step 4, so no model is written"):
        run(["fit", "--config", str(tmp_path / "run.yaml")])  # which ends between two looks at the loss
    assert not (tmp_path / "run" / "model").exists()

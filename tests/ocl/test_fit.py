"""`ocl fit` trains, resumes bit for bit after a kill, exports a model that loads, and refuses a mixed-up folder."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

import ocl
from ocl import checkpoints
from ocl.fit import run
from ocl.manifest import versions
from ocl.shapes import Batch

STEPS = 200
KILLS = 5


def config(root: Path) -> dict:
    def node(path: str, **arguments: object) -> dict:
        return {"class_path": path, "init_args": arguments}

    return {
        "seed_everything": 3,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": STEPS,
            "val_check_interval": 10,
            "limit_val_batches": 1,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 5,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "model": node(
                "ocl.model.ObjectCentricModel",
                encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[35, 35], dim=16, channels=8, strides=[2, 2]),
                initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=4, dim=16),
                grouping=node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16),
                decoder=node("ocl.decoders.broadcast.BroadcastDecoder", dim=16, grid=[8, 8], channels=8, strides=[2]),
            ),
            "losses": {"reconstruction": node("ocl.losses.reconstruction.PixelReconstruction")},
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS, warmup_steps=10),
            "learning_rate": 1e-3,
        },
        "data": {
            "train": node("ocl.data.tetrominoes.Tetrominoes", size=320, seed=0, block=16),
            "val": node("ocl.data.tetrominoes.Tetrominoes", size=32, seed=1),
            "batch_size": 16,
        },
        "checkpoint_every": 4,
    }


def fit(root: Path, **changes: object) -> None:
    settings = config(root)
    settings["data"] |= changes
    root.mkdir(parents=True, exist_ok=True)
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    run(["fit", "--config", str(path)])


def weights(root: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(root / "model").state_dict()


def _silent_fit(root: Path) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    fit(root)


def _write_count(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    fit(tmp_path / "whole")
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    context = multiprocessing.get_context("fork")  # the imports are shared, so that a process lives in training
    moments = random.Random(0)
    for _ in range(KILLS):
        before = _write_count(checkpoint)
        process = context.Process(target=_silent_fit, args=(tmp_path / "killed",))
        process.start()
        while _write_count(checkpoint) == before:  # it has trained on since the last kill
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = context.Process(target=_silent_fit, args=(tmp_path / "killed",))
    process.start()
    process.join()
    assert process.exitcode == 0
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    settings["model"]["learning_rate"] = 1e30
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step 5; .* lower model.learning_rate"):
        run(["fit", "--config", str(tmp_path / "run.yaml")])
    assert not (tmp_path / "run" / "model").exists()


def test_a_run_leaves_what_it_did_and_a_model_that_loads(tmp_path: Path) -> None:
    root = tmp_path / "run"
    fit(root)
    manifest = yaml.safe_load((root / "model" / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["step"] == STEPS
    assert manifest["versions"] == versions()
    assert -1 <= manifest["metrics"]["val/foreground_ari"] <= 1
    assert len(list((root / "pictures").glob("step-*.png"))) == STEPS // 10
    assert list(root.glob("logs/version_0/metrics.csv"))
    assert list(root.glob("tensorboard/version_0/events*"))
    encoder = ocl.load(root / "model")
    slots = encoder(Batch(torch.randint(0, 256, (2, 3, 35, 35), dtype=torch.uint8)))
    assert slots.vectors.shape == (2, 4, 16)

    with pytest.raises(ValueError, match="another data configuration"):
        fit(root, batch_size=32)
    before = weights(root)
    fit(root)  # finished: nothing more happens
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(root).items())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    settings = config(tmp_path / "run")
    del settings["trainer"]["default_root_dir"]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match="name the run's folder"):
        run(["fit", "--config", str(tmp_path / "c.yaml")])

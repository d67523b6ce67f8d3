"""`ocl fit` on two processes over gloo: what one process with batches of twice the size does, and as restartable."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pytorch_lightning import Callback

from ocl import checkpoints
from ocl.benchmark import Arm, benchmark
from ocl.fit import run

pytestmark = pytest.mark.slow  # every run is two processes that import everything

STEPS = 12
DISTRIBUTED = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8")
SCENES = 41  # held out: an odd number, so the processes read unequal shares


class Draws(Callback):
    """Writes the seed that each process draws from at every step."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        with (Path(trainer.default_root_dir) / f"draws-{trainer.global_rank}").open("a") as file:
            file.write(f"{torch.initial_seed()}\n")


def node(path: str, **arguments: object) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


CONFIG = {
    "seed_everything": 3,
    "trainer": {
        "accelerator": "cpu",
        "devices": 1,
        "max_steps": STEPS,
        "val_check_interval": 6,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [{"class_path": "tests.ocl.test_fit_processes.Draws"}],
    },
    "model": {
        "model": node(
            "ocl.model.ObjectCentricModel",
            encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[35, 35], dim=16, channels=8, strides=[2, 2]),
            initial_slots=node("ocl.slots.initial.LearnedSlots", num_slots=4, dim=16),  # nothing is drawn
            grouping=node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16),
            decoder=node("ocl.decoders.broadcast.BroadcastDecoder", dim=16, grid=[8, 8], channels=8, strides=[2]),
        ),
        "losses": {"reconstruction": node("ocl.losses.reconstruction.PixelReconstruction")},
        "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS, warmup_steps=4),
        "learning_rate": 1e-3,
    },
    "data": {
        "train": node("ocl.data.tetrominoes.Tetrominoes", size=80, seed=0, block=8),
        "val": node("ocl.data.tetrominoes.Tetrominoes", size=SCENES, seed=1),
        "batch_size": 16,
    },
    "checkpoint_every": 4,
    "pictures": 2,
}


def fit(root: Path, *options: str) -> Path:
    """In processes of its own, as from the command line."""
    root.mkdir(exist_ok=True)
    config = root.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "ocl.cli", "fit", "--config", str(config), f"--trainer.default_root_dir={root}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    (root / "fit.yaml").write_text(yaml.safe_dump(CONFIG))
    run(["fit", "--config", str(root / "fit.yaml"), f"--trainer.default_root_dir={root / 'run'}"])
    return root / "run"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("two") / "run", *DISTRIBUTED)


def weights(root: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(root / "model").state_dict()


def logged(root: Path, name: str) -> list[float]:
    paths: Sequence[Path] = sorted(root.glob("logs/version_*/metrics.csv"))
    assert len(paths) == 1, "a process of its own log"
    with paths[0].open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_two_processes_take_the_steps_of_one(one: Path, two: Path) -> None:
    expected, found = weights(one), weights(two)
    # Softmax over slots cancels what is added to all of them: there the gradient is rounding, which Adam blows up.
    for state in (expected, found):
        del state["grouping.norm_slots.bias"]
        state["decoder.output.bias"] = state["decoder.output.bias"][:3]
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=name)


def test_validation_counts_every_scene_once(one: Path, two: Path) -> None:
    for name in ("val/loss", "val/foreground_ari", "val/ari", "val/mean_best_overlap"):
        expected = logged(one, name)
        assert len(expected) == 2
        assert logged(two, name) == pytest.approx(expected, rel=1e-4)


def test_processes_draw_differently(one: Path, two: Path) -> None:
    draws = [(two / f"draws-{rank}").read_text().split() for rank in range(2)]
    assert len(draws[0]) == len(draws[1]) == STEPS
    assert len({*draws[0], *draws[1]}) == 2 * STEPS
    assert (one / "draws-0").read_text().split() == draws[0]


def test_a_run_that_was_stopped_goes_on_exactly(two: Path, tmp_path: Path) -> None:
    fit(tmp_path / "run", *DISTRIBUTED, "--trainer.max_steps=8")
    (tmp_path / "run" / "logs").rename(tmp_path / "first")
    fit(tmp_path / "run", *DISTRIBUTED)
    expected, found = weights(two), weights(tmp_path / "run")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert logged(tmp_path / "run", "train/loss") == logged(two, "train/loss")[8:]


def test_a_run_of_a_benchmark_may_be_two_processes(tmp_path: Path) -> None:
    """Both are given the folder of the run; only the first evaluates."""
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(CONFIG))
    arm = Arm("two", "tetrominoes", tmp_path / "fit.yaml", (" ".join(DISTRIBUTED), "--trainer.max_steps=2"))
    rows = benchmark([arm], [0], tmp_path / "run", {}, images=16)
    assert {row["step"] for row in rows} == {2}
    assert {path.name for path in tmp_path.glob("run/runs/two/tetrominoes/seed-0/draws-*")} == {"draws-0", "draws-1"}

"""Two methods, two seeds: paired, restartable after a kill with equal figures, and closed to mixed configurations."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ocl.cli
from ocl import checkpoints
from ocl.benchmark import Arm, benchmark
from ocl.benchmark.arms import Job, jobs, last_step, trained
from ocl.benchmark.evaluation import MEASURES
from ocl.files import read_json
from ocl.processes import start

pytestmark = pytest.mark.slow  # every run is a process that imports everything

STEPS = 60
THRESHOLDS = {"foreground_ari": 0.5, "ari": -2.0}
IMPLICIT = ("--model.model.init_args.grouping.init_args.gradient implicit",)


def node(path: str, **arguments: object) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def scenes(seed: int, size: int) -> dict[str, Any]:
    return node("ocl.data.sprite_scenes.SpriteScenes", size=size, seed=seed, image_size=32, num_objects=[2, 3])


CONFIG = {
    "trainer": {
        "default_root_dir": "unused",
        "accelerator": "cpu",
        "max_steps": STEPS,
        "limit_val_batches": 1,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
    },
    "model": {
        "model": node(
            "ocl.model.ObjectCentricModel",
            encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[32, 32], dim=16, channels=8, strides=[2, 2]),
            initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=4, dim=16),
            grouping=node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16),
            decoder=node("ocl.decoders.broadcast.BroadcastDecoder", dim=16, grid=[8, 8], channels=8, strides=[2]),
        ),
        "losses": {"reconstruction": node("ocl.losses.reconstruction.PixelReconstruction")},
        "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS, warmup_steps=10),
        "learning_rate": 1e-3,
    },
    "data": {"train": scenes(0, 256), "val": scenes(1, 64), "batch_size": 8},
    "checkpoint_every": 4,
    "pictures": 1,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a benchmark that ran without interruption, with the config of both arms beside it."""
    root = tmp_path_factory.mktemp("whole")
    (root / "fit.yaml").write_text(yaml.safe_dump(CONFIG))
    arms = [
        {"name": "full", "set": "sprites", "config": str(root / "fit.yaml")},
        {"name": "implicit", "set": "sprites", "config": str(root / "fit.yaml"), "arguments": list(IMPLICIT)},
    ]
    settings = {"arms": arms, "seeds": [0, 1], "folder": str(root / "run"), "thresholds": THRESHOLDS, "images": 40}
    (root / "benchmark.yaml").write_text(yaml.safe_dump(settings))
    ocl.cli.main(["benchmark", "--config", str(root / "benchmark.yaml"), "--processes", "2"])
    return root


def run_folder(root: Path, name: str, seed: int) -> Path:
    return root / "run" / "runs" / name / "sprites" / f"seed-{seed}"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(folder / "model").state_dict()


def first_loss(folder: Path) -> float:
    (log,) = folder.glob("logs/version_*/metrics.csv")
    return next(float(line["train/loss"]) for line in csv.DictReader(log.open()) if line["train/loss"])


def test_every_run_has_rows_and_pictures(whole: Path) -> None:
    rows = read_json(whole / "run" / "results.json")
    assert len(rows) == 2 * 2 * len(MEASURES)
    assert [set(row) for row in rows] == [
        {"name", "set", "seed", "measure", "value", "protocol", "step", "minutes"}
    ] * len(rows)
    assert {row["step"] for row in rows} == {STEPS}
    assert {row["protocol"] for row in rows} == {"classic"}
    assert all(row["minutes"] > 0 for row in rows)
    manifest = read_json(whole / "run" / "manifest.json")
    assert manifest["thresholds"] == THRESHOLDS
    assert (manifest["seeds"], manifest["splits"], manifest["errors"]) == ([0, 1], ["val"], {})
    lost = [row for row in rows if row["measure"] == "foreground_ari" and row["value"] < 0.5]
    assert lost, "60 steps are too few to bind"
    assert (whole / "run" / "failures.png").is_file()
    for name in ("full", "implicit"):
        for seed in (0, 1):
            assert (run_folder(whole, name, seed) / "evaluation.png").is_file()
            assert list((run_folder(whole, name, seed) / "pictures").glob("*.png"))


def test_seeds_differ_and_arms_are_paired(whole: Path) -> None:
    full, other = run_folder(whole, "full", 0), run_folder(whole, "full", 1)
    # The gradient does not change the slots: the first loss is the same only with the same weights, images and draws.
    assert first_loss(full) == first_loss(run_folder(whole, "implicit", 0))
    assert first_loss(other) == first_loss(run_folder(whole, "implicit", 1))
    assert first_loss(full) != first_loss(other)
    trained_alike = [torch.equal(a, b) for a, b in zip(weights(full).values(), weights(other).values(), strict=True)]
    assert not any(trained_alike)
    for seed, folder in enumerate((full, other)):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert (config["seed_everything"], config["model"]["seed"], config["data"]["seed"]) == (seed,) * 3
        assert [config["data"][part]["init_args"]["seed"] for part in ("train", "val")] == [0, 1]


def until_it_trains_on(job: Job) -> Any:
    """Start the job and return once it has written a new checkpoint."""
    checkpoint = job.folder / "checkpoints" / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    process = start(job)
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
        assert process.poll() is None, (job.folder / "output.txt").read_text()
        time.sleep(0.002)
    return process


def test_an_interrupted_run_ends_with_the_same_figures(whole: Path, tmp_path: Path) -> None:
    arm = Arm("implicit", "sprites", whole / "fit.yaml", IMPLICIT)
    (job,) = jobs([arm], [1], tmp_path / "run")
    job.prepare("classic", 40)
    orphan = until_it_trains_on(job)
    orphan.stdin.close()  # as when the process that started it is killed: this one ends on the spot
    assert orphan.wait() == 1
    assert not trained(job.folder)
    rows = benchmark([arm], [1], tmp_path / "run", THRESHOLDS, images=40)
    expected = run_folder(whole, "implicit", 1)
    assert last_step(job) == last_step(Job("", "", 1, expected, Path(), ())) == STEPS - 1
    assert all(torch.equal(tensor, weights(expected)[name]) for name, tensor in weights(job.folder).items())
    assert {row["measure"]: row["value"] for row in rows} == read_json(expected / "evaluation.json")["measures"]
    assert {row["minutes"] for row in rows} == {None}  # what the interrupted process took is not known


def test_a_finished_benchmark_runs_nothing_again(whole: Path) -> None:
    weights_file = run_folder(whole, "full", 0) / "model" / "model.safetensors"
    before, rows = weights_file.stat().st_mtime_ns, read_json(whole / "run" / "results.json")
    output = run_folder(whole, "full", 0) / "output.txt"
    written = output.stat().st_mtime_ns
    ocl.cli.main(["benchmark", "--config", str(whole / "benchmark.yaml")])
    assert read_json(whole / "run" / "results.json") == rows
    assert output.stat().st_mtime_ns == written, "a process was started"
    assert weights_file.stat().st_mtime_ns == before


def test_another_configuration_in_the_folder_is_refused(whole: Path) -> None:
    rows = read_json(whole / "run" / "results.json")
    with pytest.raises(ValueError, match=r"holds a run of full with another configuration \(see its job.json\)"):
        ocl.cli.main(
            ["benchmark", "--config", str(whole / "benchmark.yaml"), "--arguments", '["--trainer.max_steps 61"]']
        )
    assert read_json(whole / "run" / "results.json") == rows
    arms = [Arm("full", "sprites", whole / "fit.yaml")]
    (whole / "fit.yaml").write_text("# a remark changes nothing\n" + yaml.safe_dump(CONFIG))
    benchmark(arms, [0], whole / "run", THRESHOLDS, images=40)
    (whole / "fit.yaml").write_text(yaml.safe_dump(CONFIG | {"checkpoint_every": 5}))
    with pytest.raises(ValueError, match="another configuration"):
        benchmark(arms, [0], whole / "run", THRESHOLDS, images=40)
    (whole / "fit.yaml").write_text(yaml.safe_dump(CONFIG))


def test_a_failing_run_is_reported_and_stops_no_other(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = [
        Arm("broken", "sprites", whole / "fit.yaml", ("--data.batch_size 1000",)),
        Arm("sound", "sprites", whole / "fit.yaml", ("--trainer.max_steps 2",)),
    ]
    with pytest.raises(ValueError, match="1 of 2 runs ended with an error"):
        benchmark(arms, [0], tmp_path / "run", THRESHOLDS, images=8, processes=2)
    printed = " ".join(capsys.readouterr().out.split())
    assert "broken on sprites, seed 0 ended with an error; its output:" in printed
    assert "error: A training set of 256 items does not fill one batch of 1000" in printed
    assert {row["name"] for row in read_json(tmp_path / "run" / "results.json")} == {"sound"}
    assert list(read_json(tmp_path / "run" / "manifest.json")["errors"]) == ["broken on sprites, seed 0"]


def test_bad_input_is_named(whole: Path, tmp_path: Path) -> None:
    arm = Arm("full", "sprites", whole / "fit.yaml")

    def refused(message: str, arms: list[Arm] = [arm], seeds: list[int] = [0], **options: Any) -> None:  # noqa: B006
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            benchmark(arms, seeds, tmp_path, options.pop("thresholds", {}), **options)
        assert not list(tmp_path.iterdir())

    refused("at least one arm and one seed", seeds=[])
    refused("the arm full on sprites is given twice", arms=[arm, arm])
    refused("seeds must differ", seeds=[1, 1])
    refused("seeds must differ and be at least 0", seeds=[-1])
    refused("must be a folder's name", arms=[Arm("../full", "sprites", arm.config)])
    refused("the config of full on sprites, does not exist", arms=[Arm("full", "sprites", tmp_path / "no.yaml")])
    refused("no measure 'fg_ari'; it is one of ari, foreground_ari", thresholds={"fg_ari": 0.5})
    refused("no evaluation protocol 'spot'", protocol="spot")
    refused("processes and images must be at least 1", processes=0)


def test_two_ray_nodes_of_which_one_is_lost_give_the_same_figures(
    whole: Path, tmp_path: Path, two_ray_nodes: Any
) -> None:
    """The run of the lost node goes on on the other, from its last checkpoint."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "ocl.cli", "benchmark", "--config", str(whole / "benchmark.yaml")]
    options = ["--seeds=[0]", f"--folder={folder}", "--ray=true"]
    runs = {name: folder / "runs" / name / "sprites" / "seed-0" for name in ("full", "implicit")}
    process = subprocess.Popen([*command, *options], env=os.environ | {"RAY_ADDRESS": two_ray_nodes.address})

    def is_at_risk(run: Path) -> bool:
        begun = (run / "checkpoints" / "last.ckpt").exists() and not trained(run)
        return begun and bool(two_ray_nodes.second_works_in(run))

    while not any(map(is_at_risk, runs.values())):
        assert process.poll() is None
        time.sleep(0.005)
    two_ray_nodes.lose_second()
    assert process.wait() == 0
    assert read_json(folder / "manifest.json")["errors"] == {}
    for name, run in runs.items():
        expected = run_folder(whole, name, 0)
        assert all(torch.equal(tensor, weights(expected)[part]) for part, tensor in weights(run).items())
        found = read_json(run / "evaluation.json")
        assert found["measures"] == read_json(expected / "evaluation.json")["measures"]
    minutes = [read_json(run / "evaluation.json")["minutes"] for run in runs.values()]
    assert minutes.count(None) == 1, "one was interrupted, so how long it took is not known"

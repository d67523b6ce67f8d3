"""A small grid in one process, in four, killed and continued: the same figures, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import rl_probes.cli
from ocl.files import read_json
from rl_probes import snapshot
from rl_probes.benchmark import worker
from rl_probes.progress import read_progress

pytestmark = pytest.mark.slow  # every cell is a process that imports everything

STEPS = 6144
ROLLOUTS = STEPS // (16 * 8)
KILLS = 10
CELLS = ("oracle/encoder-0-agent-0", "random_cnn/encoder-0-agent-0", "random_cnn/encoder-1-agent-0")


def node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


CONFIG = {
    "tasks": [
        {
            "name": "goal",
            "world": node(
                "rl_probes.envs.sprite_world.SpriteWorld",
                num_envs=8,
                image_size=16,
                task=node("rl_probes.envs.tasks.ObjectGoal"),
            ),
        }
    ],
    "representations": [
        {
            "name": "oracle",
            "encoders": [
                node(
                    "ocl.representations.OracleObjects",
                    num_objects=5,
                    quantities={"position": 2},
                    categories={"color": 4, "is_agent": 2},
                )
            ],
            "pooling": node("rl_probes.pooling.DeepSetPooling", width=16),
        },
        {
            "name": "random_cnn",
            "encoders": [
                node("ocl.representations.RandomCNN", image_size=[16, 16], dim=4, strides=[4, 2], seed=seed)
                for seed in (0, 1)
            ],
            "pooling": node("rl_probes.pooling.FlattenPooling", width=16),
        },
    ],
    "seeds": [0],
    "ceiling": "oracle",
    "ppo": {"n_steps": 16, "batch_size": 64, "n_epochs": 2},
    "total_steps": STEPS,
    "episodes": 30,
    "snapshot_every": 1,
}


def arguments(folder: Path, *more: str) -> list[str]:
    config = folder.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(CONFIG))
    return ["benchmark", "--config", str(config), "--folder", str(folder), *more]


def complete(folder: Path, processes: int) -> Path:
    with pytest.warns(UserWarning, match="fewer than 3 seeds"):
        rl_probes.cli.main(arguments(folder, f"--processes={processes}"))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid that ran in one process at a time without interruption."""
    return complete(tmp_path_factory.mktemp("whole") / "run", 1)


def cell(folder: Path, name: str) -> Path:
    return folder / "cells" / "goal" / name


def assert_equal_figures(folder: Path, expected: Path) -> None:
    for name in ("chance", *CELLS):
        assert_equal_cells(cell(folder, name), cell(expected, name))


def assert_equal_cells(folder: Path, expected: Path) -> None:
    episodes = [read_json(root / "episodes.json") for root in (folder, expected)]
    assert episodes[0]["splits"] == episodes[1]["splits"]
    if expected.name == "chance":
        return
    first, second = (snapshot.load(root / "agent.safetensors") for root in (folder, expected))
    assert first["encoder"] == second["encoder"]
    assert all((array == second["policy"][part]).all() for part, array in first["policy"].items())


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "ended before it could be stopped"
        time.sleep(0.005)


def is_training(folder: Path, name: str) -> bool:
    return (cell(folder, name) / "snapshot.safetensors").exists() and not (
        cell(folder, name) / "episodes.json"
    ).exists()


def start(folder: Path, *more: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "rl_probes.cli", *arguments(folder, *more)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **pipes, start_new_session=True, env=os.environ | environment)


def test_cells_differ_and_leave_what_is_needed(whole: Path) -> None:
    manifests = [read_json(cell(whole, name) / "manifest.json") for name in CELLS]
    fingerprints = {manifest["config"]["encoder"] for manifest in manifests}
    assert len(fingerprints) == 3
    for manifest, name in zip(manifests, CELLS, strict=True):
        assert manifest["config"]["world"]["environment"]
        assert {"torch", "numpy", "stable-baselines3"} <= manifest["versions"].keys()
        assert read_json(cell(whole, name) / "episodes.json")["encoder"] == manifest["config"]["encoder"]
        assert (cell(whole, name) / "episode.gif").read_bytes()[:4] == b"GIF8"
    assert (whole / "report.html").read_text().count("data:image/gif") == 3  # chance, oracle, random_cnn


def test_a_killed_grid_of_four_processes_equals_one_of_one(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder, "--processes=4")
    until(lambda: all(is_training(folder, name) for name in CELLS[1:]), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not any((cell(folder, name) / "agent.safetensors").exists() for name in CELLS[1:])
    complete(folder, 4)
    assert_equal_figures(folder, whole)


def test_a_worker_that_dies_is_reported_and_only_its_cell_is_run_again(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    shutil.rmtree(cell(folder, CELLS[1]))
    process = start(folder, "--processes=1")
    until(lambda: is_training(folder, CELLS[1]), process)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    output, _ = process.communicate()
    assert process.returncode == 2
    assert "killed by signal 9" in output.decode()
    assert "error: 1 of 4 cells ended with an error; run again to repeat or continue them." in output.decode()
    assert not (cell(folder, CELLS[1]) / "episodes.json").exists()
    complete(folder, 1)
    assert_equal_figures(folder, whole)
    for name in (CELLS[0], CELLS[2]):
        times = [(cell(root, name) / "output.txt").stat().st_mtime_ns for root in (folder, whole)]
        assert times[0] == times[1], "a finished cell was started again"


def run_silently(folder: Path) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    worker.run(folder)


def test_a_cell_killed_at_ten_random_moments_ends_in_the_same_weights(whole: Path, tmp_path: Path) -> None:
    """Of its 48 rollouts and, as the 49th, its evaluation; each time it goes on from its last snapshot."""
    folder = cell(tmp_path, CELLS[1])
    folder.mkdir(parents=True)
    shutil.copy(cell(whole, CELLS[1]) / "cell.json", folder)
    context = multiprocessing.get_context("fork")  # the imports are shared, so that a process lives in the cell
    generator = random.Random(0)
    moments = [*sorted(generator.sample(range(ROLLOUTS + 1), KILLS - 1)), ROLLOUTS + 1]

    def reached(moment: int) -> bool:
        if moment > ROLLOUTS:
            return (folder / "agent.safetensors").exists()
        return len(read_progress(folder / "progress.csv")) >= moment

    for moment in moments:
        process = context.Process(target=run_silently, args=(folder,))
        process.start()
        while not reached(moment):
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (folder / "episodes.json").exists()
    process = context.Process(target=run_silently, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert_equal_cells(folder, cell(whole, CELLS[1]))
    assert not list(folder.glob(".tmp-*"))


def test_a_grid_on_two_ray_nodes_that_loses_one_equals_one_of_one_process(
    whole: Path, tmp_path: Path, two_ray_nodes: Any
) -> None:
    """The cell of the lost node goes on on the other, and no other cell is run again."""
    folder = tmp_path / "run"
    process = start(folder, "--ray=true", RAY_ADDRESS=two_ray_nodes.address)

    def at_risk() -> list[str]:
        return [
            name for name in CELLS if is_training(folder, name) and two_ray_nodes.second_works_in(cell(folder, name))
        ]

    until(lambda: bool(at_risk()), process)
    (lost,) = at_risk()
    two_ray_nodes.lose_second()
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()
    assert read_json(folder / "manifest.json")["errors"] == {}
    starts = {name: len(list(cell(folder, name).glob("events.*"))) for name in CELLS}  # each leaves a file of curves
    assert starts == {name: 2 if name == lost else 1 for name in CELLS}
    assert_equal_figures(folder, whole)

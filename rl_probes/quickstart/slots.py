"""Train the slot model, and make its untrained twin."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml

from ocl import checkpoints
from ocl.instantiate import instantiate
from rl_probes.quickstart.stages import Row, Stage, row

LEVELS = (0.7, 0.8, 0.9)


def training_stage(folder: Path, config: Path, steps: int | None, threads: int, seed: int) -> Stage:
    """Raises FileNotFoundError where there is no such config."""
    if not config.is_file():
        raise FileNotFoundError(
            f"{config} does not exist; run in the repository's root, or name another --slots_config."
        )
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    return Stage(folder, {"config": content, "steps": steps, "threads": threads}, seed)


def train_slots(stage: Stage, config: Path) -> None:
    """`ocl fit` with the run's folder and seed; continues where an earlier call was stopped."""
    from ocl.fit import run  # here: Lightning takes seconds to import, and finished runs do not need it

    options: dict[str, Any] = {"trainer.default_root_dir": stage.folder, "seed_everything": stage.seed}
    options |= {"model.seed": stage.seed, "data.seed": stage.seed}
    if stage.settings["steps"] is not None:
        options["trainer.max_steps"] = stage.settings["steps"]
    threads = torch.get_num_threads()
    torch.set_num_threads(stage.settings["threads"])
    start = time.monotonic()
    run(["fit", "--config", str(config), *(f"--{name}={value}" for name, value in options.items())])
    seconds = time.monotonic() - start
    torch.set_num_threads(threads)
    curve = training_curve(stage.folder)
    stage.finish(_rows(curve, stage.seed), max([seconds, *(point["seconds"] for point in curve)]))


def _rows(curve: list[dict[str, float]], seed: int) -> list[Row]:
    """The last figure, and when each level was first reached; a level that was not has no row."""
    rows = []
    if curve:
        rows.append(row("training/foreground_ari", curve[-1]["foreground_ari"], "index", seed, "validation scenes"))
        rows.append(row("training/minutes", curve[-1]["seconds"] / 60, "minutes", seed, "training scenes"))
    for level in LEVELS:
        reached = next((point["seconds"] for point in curve if point["foreground_ari"] >= level), None)
        if reached is not None:
            name = f"training/minutes_to_foreground_ari_{level:.1f}"
            rows.append(row(name, reached / 60, "minutes", seed, "validation scenes"))
    return rows


def training_curve(folder: Path) -> list[dict[str, float]]:
    """{"step", "seconds", "foreground_ari"} of every validation, from the TensorBoard logs of all sessions.

    Seconds are those spent in training: the pauses between a stop and the next start do not count.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    curve: list[dict[str, float]] = []
    sessions = sorted((folder / "tensorboard").glob("version_*"), key=lambda path: int(path.name.split("_")[1]))
    for session in sessions:
        events = EventAccumulator(str(session))
        events.Reload()
        if "val/foreground_ari" not in events.Tags()["scalars"]:
            continue
        points = events.Scalars("val/foreground_ari")
        curve = [point for point in curve if point["step"] < points[0].step]  # trained again after a kill
        before = curve[-1]["seconds"] if curve else 0.0
        begun = events.FirstEventTimestamp()
        curve += [
            {"step": point.step, "seconds": before + point.wall_time - begun, "foreground_ari": point.value}
            for point in points
        ]
    return curve


def make_untrained(trained: Path, folder: Path, seed: int) -> Path:
    """The control: the same architecture as it is initialised from `seed`, as a checkpoint."""
    if not (folder / "manifest.json").is_file():
        tree = checkpoints.read_config(trained)["model"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = instantiate(tree, trust=True)
        checkpoints.save(tree, model, folder, seed=seed)
    return folder

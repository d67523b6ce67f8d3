"""One run in a process of its own: train (or go on training), then evaluate. `python -m ocl.benchmark.worker FOLDER`.

Of two processes that are given the same folder, the second finds the run finished.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch.utils.data import Dataset

from ocl import fit
from ocl.benchmark.arms import EVALUATION, JOB, PICTURE, trained
from ocl.benchmark.evaluation import evaluate
from ocl.checkpoints import load
from ocl.commands import exit_with_sentence
from ocl.files import read_json, write_json
from ocl.metrics.protocols import protocol_named
from ocl.pictures import write_png
from ocl.processes import serve


def run(folder: Path) -> None:
    """Do what `folder`/job.json says and is not done yet; leaves evaluation.json and evaluation.png."""
    job = read_json(folder / JOB)
    before = read_json(folder / EVALUATION) if (folder / EVALUATION).is_file() else {}
    if before.get("evaluation") == job["evaluation"] and (folder / PICTURE).is_file():
        return
    minutes = before.get("minutes")
    if not trained(folder):
        fresh = not (folder / "checkpoints" / "last.ckpt").is_file()
        start = time.monotonic()
        first = fit.run(job["command"]).trainer.is_global_zero
        if not first:  # of several training processes, the one that writes goes on
            return
        minutes = (time.monotonic() - start) / 60 if fresh else None
        if not trained(folder):
            raise ValueError(f"{folder} was interrupted before its last step; run the benchmark again.")
    split, dataset = held_out(folder)
    settings = job["evaluation"]
    measures, picture = evaluate(
        load(folder / "model", trust=True),  # this machine has just trained it
        dataset,
        protocol_named(settings["protocol"]),
        settings["images"],
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    write_png(folder / PICTURE, picture)
    step = read_json(folder / "model" / "manifest.json")["step"]
    result = {"evaluation": settings, "split": split, "step": step, "minutes": minutes, "measures": measures}
    write_json(folder / EVALUATION, result)


def held_out(folder: Path) -> tuple[str, Dataset[Any]]:
    """The test set of the run in `folder`, or its validation set where it has none, with its name: nothing is chosen
    on either, since the weights of the last step count.

    Raises:
        ValueError: the run has neither.
    """
    data = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))["data"]
    split = next((name for name in ("test", "val") if data.get(name)), None)
    if split is None:
        raise ValueError(f"{folder} was trained with neither a test nor a val set; give data.test in its config.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--dataset", type=Dataset)
    built = parser.instantiate_classes(parser.parse_object({"dataset": data[split]}))
    return split, built.dataset


if __name__ == "__main__":
    exit_with_sentence(lambda: serve(run))

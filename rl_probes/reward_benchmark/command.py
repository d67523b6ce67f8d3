"""`rl-probes reward generate | benchmark`: episodes with exact labels; predictors on every encoder and task."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from ocl.files import write_json, write_text
from ocl.manifest import write_manifest
from ocl.representations import ObjectEncoder
from rl_probes.reward_benchmark import stored
from rl_probes.reward_benchmark.cell import CONTROLS, Cell, Row, Slots
from rl_probes.reward_benchmark.page import tables, write_page
from rl_probes.reward_benchmark.recipes import Episodes, Recipe
from rl_probes.reward_benchmark.stored import StoredTask

WIDTH = 150  # characters, where the output is no terminal


def generate(folder: Path, tasks: list[str], train_starts: int = 420, test_starts: int = 40, seed: int = 0) -> None:
    """Write episodes of sprite tasks, good and bad, with the exact worth of every step; what is there is checked.

    Args:
        folder: Where to.
        tasks: Names such as "object goal", "push" or "object comparison N4C3S2S1".
        train_starts: Of each task, each played once, in one of the ways to play; a sixth as many for validation.
        test_starts: Of each task, each played in every way.
        seed: Of starts and players.
    """
    stored.generate(folder, tuple(tasks), train_starts=train_starts, test_starts=test_starts, seed=seed)


def benchmark(
    episodes: Path,
    tasks: list[str],
    encoders: dict[str, ObjectEncoder],
    predictors: dict[str, Recipe],
    seeds: list[int],
    folder: Path,
    gamma: float = 0.99,
    image_size: int = 64,
    resamples: int = 1000,
) -> list[Row]:
    """Fit predictors x encoders x tasks x seeds and compare them beside controls; run again to continue.

    Args:
        episodes: The folder that `rl-probes reward generate` wrote.
        tasks: Of those in it.
        encoders: By name, what turns frames into slots.
        predictors: By name, how each is made from training episodes.
        seeds: Of initial weights, batches and controls.
        folder: Where cells, results.json, table.csv, report.html and the manifest go.
        gamma: Discount of the step-level difference gamma * p(s') - p(s).
        image_size: Pixels along each side of the frames that encoders see.
        resamples: Of the bootstrap intervals over episodes.
    """
    if not (tasks and encoders and predictors and seeds) or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError("a benchmark needs tasks, encoders, predictors and different seeds from 0 on.")
    if taken := sorted({"constant", "random", "clock", "oracle", CONTROLS} & set(predictors)):
        raise ValueError(f"{', '.join(taken)} is the name of a control; call the predictor something else.")
    if wrong := [name for name in (*encoders, *predictors) if Path(name).name != name or name == ".."]:
        raise ValueError(f"{wrong[0]!r} cannot be the name of a folder; call that encoder or predictor something else.")
    found = {name: stored.load(episodes, name) for name in tasks}
    grid = list(_cells(found, encoders, predictors, seeds, folder, gamma, image_size, resamples))
    finished = {cell.title: cell.result() for cell in grid}  # all of them, before any is made
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    errors: dict[str, str] = {}
    for task, encoder in product(tasks, encoders):
        missing = [c for c in grid if (c.task, c.encoder) == (task, encoder) and finished[c.title] is None]
        if not missing:
            continue
        slots = _slots(found[task], encoder, encoders[encoder], image_size)
        for cell in missing:
            try:
                finished[cell.title] = cell.run(slots, predictors.get(cell.predictor), gamma, resamples)
                console.print(f"{cell.title}: done")
            except ValueError as error:
                errors[cell.title] = str(error)
                console.print(f"{cell.title}: [bold red]{error}")
    rows = [row for cell in grid for row in finished[cell.title] or ()]
    write_json(folder / "results.json", rows)
    write_text(folder / "table.csv", _as_csv(rows))
    for table in tables(rows):
        console.print(table.rich(), "")
    page = write_page(folder / "report.html", rows, grid, found, encoders, image_size)
    console.print(f"report: {page}", soft_wrap=True)
    facts = {name: encoder.fingerprint for name, encoder in encoders.items()}
    config = {"gamma": gamma, "image_size": image_size, "resamples": resamples, "seeds": seeds}
    config |= {"predictors": {name: one.describe() for name, one in predictors.items()}}
    digests = {name: one.digest for name, one in found.items()}
    write_manifest(folder, config=config, seed=None, encoders=facts, episodes=digests, errors=errors)
    if errors:
        raise ValueError(f"{len(errors)} of {len(grid)} cells could not be made: {'; '.join(errors.values())}")
    return rows


def _cells(
    found: dict[str, StoredTask],
    encoders: dict[str, ObjectEncoder],
    predictors: dict[str, Recipe],
    seeds: list[int],
    folder: Path,
    gamma: float,
    image_size: int,
    resamples: int,
) -> Iterator[Cell]:
    """Seed by seed, so that an interrupted benchmark has compared all on some seeds."""
    shared = {"gamma": gamma, "image_size": image_size, "resamples": resamples}
    made: dict[str, dict[str, Any]] = {CONTROLS: {}} | {name: one.describe() for name, one in predictors.items()}
    for seed, task, encoder, predictor in product(seeds, found, encoders, made):
        identity = {"episodes": found[task].digest, "encoder": encoders[encoder].fingerprint, "seed": seed}
        where = folder / "cells" / stored.slug(task) / encoder / predictor / f"seed-{seed}"
        yield Cell(task, encoder, predictor, seed, where, identity | {"made": made[predictor]} | shared)


def _slots(task: StoredTask, name: str, encoder: ObjectEncoder, image_size: int) -> Slots:
    parts = []
    for split in stored.SPLITS:
        own = task.split(split)
        recording, goals = own.encode(encoder, image_size)
        parts.append(Episodes(recording, own.frames["stage"]))
    train, val, test = parts
    return Slots(task.name, name, train, val, test, goals)


def _as_csv(rows: list[Row]) -> str:
    text = io.StringIO()
    columns = ("task", "encoder", "predictor", "measure", "seed", "value", "low", "high", "unit", "split")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""`ocl occam`: classify images by their segments and see what the background did."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing.connection import wait
from pathlib import Path

import torch
from rich.console import Console
from torch.utils.data import Dataset

from ocl.files import write_json
from ocl.manifest import write_manifest
from ocl.masks.apply import MaskApplication
from ocl.masks.base import MaskSource
from ocl.masks.foreground import ForegroundScore
from ocl.masks.selection import Selection
from ocl.occam.ensembles import Ensemble
from ocl.occam.rows import Row
from ocl.occam.sheet import Sheet
from ocl.occam.study import Study
from ocl.occam.table import table

WIDTH = 200  # characters, where the output is no terminal


def occam(
    dataset: Dataset,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
    ensemble: Ensemble,
    application: MaskApplication,
    sources: dict[str, MaskSource],
    scores: list[ForegroundScore],
    selections: dict[str, Selection],
    sheet: Sheet,
    seeds: list[int],
    folder: Path,
    batch_size: int = 128,
    processes: int = 1,
    device: str = "cpu",
) -> None:
    """Classify images by their segments, for all sources of masks and foreground scores; run again to continue.

    Args:
        dataset: Test images with "class" and "group" (the groups that worst-group accuracy is over).
        ensemble: The classifiers; the first one answers, scores may read all of them.
        application: How a segment is shown to a classifier.
        sources: Name -> where masks come from. The mask of the whole image is the baseline without masks.
        scores: Which segment is the foreground. Scores that read the label are marked, with their chance level.
        selections: Name -> how scores and class probabilities become one answer per image.
        sheet: Which source and score the pictures show.
        seeds: The study is repeated with each; classifiers that are not trained here give the same rows every time.
        folder: Where results.json, the manifest and one folder per seed go.
        batch_size: Images at once.
        processes: Seeds at a time on this machine, one thread each.
        device: Of the classifiers and of the sources' networks.
    """
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or processes < 1:
        raise ValueError(f"give different seeds from 0 up and at least one process, got {seeds} and {processes}.")
    study = Study(dataset, ensemble, application, sources, scores, selections, sheet, batch_size, device)
    folders = {seed: folder / f"seed-{seed}" for seed in seeds}
    rows: dict[int, list[Row]] = {}
    minutes: dict[str, float] = {}
    for seed, found, spent in _run(study, folders, processes):
        rows[seed], minutes[str(seed)] = found, spent
        write_json(folder / "results.json", [row for seed in seeds for row in rows.get(seed, [])])
    write_manifest(folder, config=study.settings(), seed=None, seeds=seeds, minutes=minutes)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(table([row for seed in seeds for row in rows[seed]]))
    console.print(f"rows: {folder / 'results.json'}, pictures: {', '.join(map(str, folders.values()))}")


def _run(study: Study, folders: dict[int, Path], processes: int) -> Iterator[tuple[int, list[Row], float]]:
    """(seed, rows, minutes of this call) as the seeds are done."""
    if processes == 1:
        yield from (_seed(study, seed, folder) for seed, folder in folders.items())
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(folders)), context, _begin) as pool:
        waiting: Sequence[Future[tuple[int, list[Row], float]]] = [
            pool.submit(_seed, study, seed, folder) for seed, folder in folders.items()
        ]
        for done in as_completed(waiting):
            yield done.result()


def _begin() -> None:
    """A process has one thread and ends with the one that started it, however that ended."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)  # at once: files are written whole, and the next start goes on from the last state


def _seed(study: Study, seed: int, folder: Path) -> tuple[int, list[Row], float]:
    start = time.monotonic()
    rows = study.run(seed, folder)
    return seed, rows, (time.monotonic() - start) / 60

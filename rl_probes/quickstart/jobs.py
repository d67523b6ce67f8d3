"""Several stages at once, each in a process of its own with one torch thread."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rl_probes.quickstart.stages import Row, Stage

LOG = "log.txt"


@dataclass(frozen=True)
class Job:
    """work: its stage's folder -> its rows. share: the folder -> how much of the work is done, in [0, 1]; None where
    nobody can tell. Both travel to another process, so they are functions of modules or `functools.partial` of these.
    """

    title: str
    stage: Stage
    work: Callable[[Path], list[Row]]
    share: Callable[[Path], float] | None = None


def run_jobs(jobs: Sequence[Job], processes: int) -> None:
    """Do those that are not done, in order, at most `processes` at a time. What they print goes to `log.txt` in their
    folders. They end when this process ends, however it does.

    Raises:
        RuntimeError: one of them failed; the others are stopped, and continue when the call is repeated.
    """
    waiting = [job for job in jobs if not job.stage.is_done()]
    context = multiprocessing.get_context("spawn")
    running: dict[SpawnProcess, Job] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns) as bar:
        tasks = {job.title: bar.add_task(job.title, total=1.0, start=False, state="") for job in waiting}
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    job.stage.folder.mkdir(parents=True, exist_ok=True)
                    process = context.Process(target=_work, args=(job,))
                    process.start()
                    running[process] = job
                    bar.start_task(tasks[job.title])
                    bar.update(tasks[job.title], total=None if job.share is None else 1.0)
                wait([process.sentinel for process in running], timeout=0.5)
                for process, job in list(running.items()):
                    if job.share is not None:
                        bar.update(tasks[job.title], completed=job.share(job.stage.folder))
                    if process.exitcode is None:
                        continue
                    del running[process]
                    if process.exitcode:
                        log = job.stage.folder / LOG
                        last = (log.read_text(errors="replace").strip() or "nothing").splitlines()[-1]
                        raise RuntimeError(f"{job.title} failed with status {process.exitcode}; {log} ends in: {last}")
                    bar.update(tasks[job.title], total=1.0, completed=1.0, state="done")
                    bar.stop_task(tasks[job.title])
        finally:
            for process in running:
                process.terminate()
                process.join()


def _work(job: Job) -> None:
    """In the new process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with open(job.stage.folder / LOG, "a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    start = time.monotonic()
    job.stage.finish(job.work(job.stage.folder), time.monotonic() - start)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""Work side by side: every job a process of its own, on this machine or as a task of a Ray cluster.

A job is a folder that holds what its worker needs. The worker is a module whose `main` is `serve(run)`; it ends when
the process that started it does, and is started again by the next call.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import platform
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

OUTPUT = "output.txt"
"""What a worker prints, in the job's folder."""
INTERVAL = 0.5  # seconds between two looks
TAIL = 8  # lines of a failed job's output
RETRIES = 10  # of a job whose Ray node or worker is lost


class Job(Protocol):
    """Hashable. worker: the module that `python -m` runs with the folder, which exists, as its argument."""

    @property
    def worker(self) -> str: ...

    @property
    def folder(self) -> Path: ...


J = TypeVar("J", bound=Job)
Progress = tuple[list[J], dict[J, str | None]]
"""The jobs now running, and those just ended: None where all went well, else the last lines of the output."""


def start(job: Job) -> subprocess.Popen[bytes]:
    """Begin `job` in a process with one thread, which ends with this one; its output goes to output.txt."""
    with (job.folder / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", job.worker, str(job.folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at the keyboard reaches it through the closing pipe alone
        )


def serve(run: Callable[[Path], None]) -> None:
    """Be the worker of the folder in the first argument: `run` it, alone in it, and end at once with the parent.

    Standard input is a pipe that closes when the parent ends. Two processes that are given the same folder take turns,
    unless the first one has started the second as a further process of the same training.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(sys.argv[1])
    if int(os.environ.get("LOCAL_RANK", "0")) > 0:
        run(folder)
        return
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run(folder)


def _end_with_parent() -> None:
    os.read(0, 1)  # of the descriptor: sys.stdin has a lock that would be held at exit
    os._exit(1)  # at once: files are written whole, and the next start goes on from the last checkpoint


def outcome(job: Job, process: subprocess.Popen[bytes]) -> str | None:
    """Wait for the process; None, or why it failed."""
    status = process.wait()
    if process.stdin is not None:
        process.stdin.close()
    if status == 0:
        return None
    lines = (job.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").splitlines()
    ended = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    return "\n".join([*[line for line in lines if line.strip()][-TAIL:], ended])


def locally(jobs: Sequence[J], processes: int) -> Iterator[Progress[J]]:
    """Run the jobs, at most `processes` at a time. Leaving the iteration early ends those that run."""
    waiting, running = deque(jobs), dict[J, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                running[job] = start(job)
            yield list(running), {}
            time.sleep(INTERVAL)
            ended = [job for job, process in running.items() if process.poll() is not None]
            yield list(running), {job: outcome(job, running.pop(job)) for job in ended}
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def over_ray(jobs: Sequence[J]) -> Iterator[Progress[J]]:
    """Run the jobs as tasks of the Ray cluster that this machine belongs to (a new local one where it has none), one
    CPU and, where the cluster has any, one GPU each. Leaving the iteration early ends those that run.

    Where a node is lost, its jobs start again on others and go on from what they had saved: their folders must lie on a
    file system that all nodes share.

    Raises:
        ImportError: ray is not installed.
    """
    ray = _ray()
    connected = ray.is_initialized()
    if not connected:
        ray.init(include_dashboard=False, log_to_driver=False)
    gpus = min(1, ray.cluster_resources().get("GPU", 0))
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES)(complete)
    for job in jobs:
        (job.folder / OUTPUT).unlink(missing_ok=True)  # from now on, those that have one have begun
    running = {task.remote(_Bare(job.worker, job.folder), os.getcwd()): job for job in jobs}

    def result(reference: Any) -> str | None:
        try:
            return None if (error := ray.get(reference)) is None else str(error)
        except ray.exceptions.RayError as error:  # whoever could say more is gone
            return f"Ray could not finish it: {str(error).splitlines()[0]}"

    try:
        while running:
            ended, _ = ray.wait(list(running), timeout=INTERVAL)
            begun = [job for job in running.values() if (job.folder / OUTPUT).is_file()]
            yield begun, {running.pop(reference): result(reference) for reference in ended}
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if not connected:
            ray.shutdown()


@dataclass(frozen=True)
class _Bare:
    """A job without what else it may hold: the process that waits for the worker need not import what that needs."""

    worker: str
    folder: Path


def complete(job: Job, cwd: str) -> str | None:
    """Start the job and wait for it, in the working folder of the benchmark; None, or why it failed."""
    try:
        os.chdir(cwd)
        return outcome(job, start(job))
    except FileNotFoundError as error:
        return f"{error.filename} does not exist on {platform.node()}; all nodes must share the folders of the jobs."


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing home unless the user says so
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("--ray true needs the package ray: pip install 'ocl-research[cluster]'.") from error

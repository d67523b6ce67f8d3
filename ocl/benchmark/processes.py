"""Runs side by side: in processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ocl.benchmark.arms import OUTPUT, Job

Progress = tuple[list[Job], dict[Job, str | None]]
"""The jobs now running, and those just ended: None where all went well, else the last lines of the output."""

INTERVAL = 0.5  # seconds between two looks
TAIL = 8  # lines of a failed run's output


def start(job: Job) -> subprocess.Popen[bytes]:
    """Begin `job` in a process with one thread, which ends with this one; its output goes to output.txt."""
    with (job.folder / OUTPUT).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "ocl.benchmark.worker", str(job.folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,  # an interrupt at the keyboard reaches it through the closing pipe alone
        )


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


def locally(jobs: Sequence[Job], processes: int) -> Iterator[Progress]:
    """Run the jobs, at most `processes` at a time. Leaving the iteration early ends those that run."""
    waiting, running = deque(jobs), dict[Job, subprocess.Popen[bytes]]()
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


def over_ray(jobs: Sequence[Job]) -> Iterator[Progress]:
    """Run the jobs as tasks of the Ray cluster that this machine belongs to (a new local one where it has none), one
    CPU and, where the cluster has any, one GPU each. The folder must lie on a file system that all nodes share.

    Raises:
        ImportError: ray is not installed.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise ImportError("--ray true needs the package ray: pip install ray.") from error
    ray.init(ignore_reinit_error=True)
    gpus = min(1, ray.cluster_resources().get("GPU", 0))
    task: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(complete)
    running = {task.remote(job, os.getcwd()): job for job in jobs}
    while running:
        ended, _ = ray.wait(list(running), timeout=INTERVAL)
        yield [job for job in running.values() if (job.folder / OUTPUT).is_file()], {}
        yield [], {running.pop(reference): ray.get(reference) for reference in ended}


def complete(job: Job, cwd: str) -> str | None:
    """Start the job and wait for it, in the working folder of the benchmark."""
    os.chdir(cwd)
    return outcome(job, start(job))


def last_step(job: Job) -> int:
    """The step in the last whole line of the run's newest CSV log; 0 before the first."""
    logs = sorted(Path(job.folder).glob("logs/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return 0
    header, *lines = logs[-1].read_text(encoding="utf-8").splitlines() or [""]
    columns = header.split(",")
    cells = lines[-1].split(",") if lines else []
    step = cells[columns.index("step")] if "step" in columns and len(cells) == len(columns) else "0"
    return int(step) if step.isdigit() else 0

"""The benchmark: train what is not trained yet, evaluate, and put all runs into one table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from ocl.benchmark.arms import PICTURE, Arm, Job, jobs, last_step
from ocl.benchmark.contact_sheet import contact_sheet
from ocl.benchmark.evaluation import MEASURES
from ocl.benchmark.table import Row, failures, rule, table
from ocl.files import write_json
from ocl.manifest import write_manifest
from ocl.metrics.protocols import protocol_named
from ocl.processes import locally, over_ray

SHEET = "failures.png"
WIDTH = 132  # characters, where the output is no terminal


def benchmark(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    folder: Path,
    thresholds: Mapping[str, float],
    *,
    protocol: str = "classic",
    arguments: Sequence[str] = (),
    images: int = 320,
    measures: Sequence[str] = ("foreground_ari", "ari", "mean_iou", "mean_best_overlap"),
    processes: int = 1,
    ray: bool = False,
) -> list[Row]:
    """Run every arm with every seed; see `ocl.cli.benchmark` for the arguments.

    A finished run is not repeated, an interrupted one goes on from its last checkpoint; another protocol or number of
    images evaluates again and trains nothing. Each run has its folder `folder`/runs/<name>/<set>/seed-<n>, as `ocl fit`
    leaves it, with evaluation.json and evaluation.png. `folder` gets results.json, manifest.json and, where a seed
    failed, failures.png.

    Returns:
        The rows of results.json: name, set, seed, measure, value, protocol, step, minutes.

    Raises:
        ValueError: an unknown protocol or measure, a run of another configuration in the folder, or, after all runs
            have been tried and the table is written, runs that ended with an error.
    """
    chosen = protocol_named(protocol)
    unknown = sorted({*thresholds, *measures} - set(MEASURES))
    if unknown:
        raise ValueError(f"there is no measure {unknown[0]!r}; it is one of {', '.join(MEASURES)}.")
    if processes < 1 or images < 1:
        raise ValueError(f"processes and images must be at least 1, got {processes} and {images}.")
    folder = Path(folder)
    every = jobs(arms, seeds, folder, arguments)
    for job in every:
        job.prepare(protocol, images)
    errors = _train(every, folder / "results.json", processes, ray)
    rows = _rows(every)
    write_manifest(
        folder,
        config=[job.training() | {"name": job.name, "set": job.set} for job in every],
        seed=None,
        seeds=list(seeds),
        protocol={"name": chosen.name, "counts": chosen.counts},
        thresholds=dict(thresholds),
        images=images,
        splits=sorted({str(result["split"]) for job in every if (result := job.result())}),
        errors={job.title: error for job, error in errors.items()},
    )
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    if rows:
        console.print(table(rows, thresholds, measures, chosen))
    console.print(f"rows: {folder / 'results.json'}, runs: {folder / 'runs'}")
    _draw_failures(every, rows, thresholds, folder / SHEET, console)
    for job, error in errors.items():
        console.print(f"[bold red]{job.title} ended with an error[/]; its output:")
        console.print(error, markup=False, highlight=False)
    if errors:
        raise ValueError(
            f"{len(errors)} of {len(every)} runs ended with an error; run again to repeat or continue them."
        )
    return rows


def _train(every: Sequence[Job], results: Path, processes: int, ray: bool) -> dict[Job, str]:
    """Run what is missing behind one bar, keeping `results` up to date; returns the errors of the runs that had one."""
    missing = [job for job in every if job.result() is None]
    errors: dict[Job, str] = {}
    write_json(results, _rows(every))
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns) as bar:
        task = bar.add_task("", total=len(every), completed=len(every) - len(missing))
        for running, ended in over_ray(missing) if ray else locally(missing, processes):
            for job, error in ended.items():
                errors |= {} if error is None else {job: error}
                bar.console.print(f"{job.title}: {'done' if error is None else '[bold red]ended with an error'}")
            if ended:
                write_json(results, _rows(every))
            names = ", ".join(f"{job.title} (step {last_step(job)})" for job in running if job not in ended)
            bar.update(task, advance=len(ended), description=names)
    return errors


def _rows(every: Sequence[Job]) -> list[Row]:
    """The rows of all runs that are finished."""
    rows = []
    for job in every:
        if (result := job.result()) is None:
            continue
        what = {"name": job.name, "set": job.set, "seed": job.seed}
        about = {"protocol": result["evaluation"]["protocol"], "step": result["step"], "minutes": result["minutes"]}
        rows += [what | {"measure": name, "value": value} | about for name, value in result["measures"].items()]
    return rows


def _draw_failures(
    every: Sequence[Job], rows: Sequence[Row], thresholds: Mapping[str, float], path: Path, console: Console
) -> None:
    fails = failures(rows, thresholds)
    values = {(row["name"], row["set"], row["seed"], row["measure"]): row["value"] for row in rows}
    tiles = []
    for job in every:
        run = (job.name, job.set, job.seed)
        if fails.get(run):
            found = {name: values[(*run, name)] for name in thresholds}
            figures = ", ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in found.items())
            tiles.append((f"{job.title}: {figures}", job.folder / PICTURE))
    if tiles:
        console.print(f"{len(tiles)} of {len(fails)} runs failed ({rule(thresholds)}): {contact_sheet(tiles, path)}")
    else:
        path.unlink(missing_ok=True)

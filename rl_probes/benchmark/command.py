"""`rl-probes benchmark`: train what is not trained yet, play, and report on everything that is there."""

from __future__ import annotations

import csv
import io
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ocl.files import write_text
from ocl.manifest import write_manifest
from ocl.processes import locally, over_ray
from ocl.report import Table
from rl_probes.benchmark import overall
from rl_probes.benchmark.grid import CHANCE, HELD_OUT, Cell, Representation, Task
from rl_probes.benchmark.latex import latex
from rl_probes.benchmark.live import live_table
from rl_probes.benchmark.page import write_page
from rl_probes.benchmark.plan import cells
from rl_probes.benchmark.results import Row, comparisons, groups, plain, row, score_range
from rl_probes.benchmark.tables import FEW, comparison_table, overall_table, task_table
from rl_probes.ppo import PPOConfig
from rl_probes.train import FIRST_SEED

WIDTH = 150  # characters, where the output is no terminal


def benchmark(
    tasks: list[Task],
    representations: list[Representation],
    seeds: list[int],
    folder: Path,
    total_steps: int,
    ceiling: str | None = None,
    ppo: PPOConfig = PPOConfig(),  # noqa: B008 (frozen)
    episodes: int = 500,
    first_seed: int = FIRST_SEED,
    most_likely: bool = False,
    snapshot_every: int = 10,
    device: str = "cpu",
    processes: int = 1,
    ray: bool = False,
) -> list[Row]:
    """Train agents on representations x tasks x encoder seeds x agent seeds and compare them; run again to continue.

    Args:
        tasks: What agents are trained and measured on: name, world, held_out worlds and how they are scored.
        representations: What agents see: name, encoders (one per encoder seed) and pooling.
        seeds: Of agents: each encoder gets one agent with each.
        folder: Where cells, report.html, table.csv, comparisons.csv, table.tex and the manifest go.
        total_steps: Environment steps of every agent, over all environments together.
        ceiling: The representation whose score counts as 1 where a task has no score_range; chance counts as 0.
        ppo: The algorithm's settings, where a representation has none of its own.
        episodes: Played by every agent and by a random policy, on the same seeds.
        first_seed: The first of the evaluation seeds.
        most_likely: Take the most likely action in evaluation instead of sampling.
        snapshot_every: Rollouts between snapshots, from which a stopped cell goes on.
        device: Of the policies.
        processes: Cells at a time on this machine, one thread each.
        ray: Run over the Ray cluster of this machine instead.
    """
    if min(total_steps, episodes, processes, snapshot_every) < 1:
        raise ValueError("total_steps, episodes, processes and snapshot_every must all be at least 1.")
    if ceiling is not None and ceiling not in [one.name for one in representations]:
        raise ValueError(f"the ceiling {ceiling!r} is none of the representations.")
    training = {
        "total_steps": total_steps,
        "ppo": asdict(ppo),
        "snapshot_every": snapshot_every,
        "device": device,
    }
    evaluation = {"episodes": episodes, "first_seed": first_seed, "most_likely": most_likely}
    every = cells(tasks, representations, seeds, Path(folder), training, evaluation)
    for cell in every:  # all of them, before any file is written
        cell.check()
    for cell in every:
        cell.prepare()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    errors = _train(every, processes, ray, console)
    rows = _report(tasks, every, Path(folder), ceiling, console)
    write_manifest(
        folder,
        config={"training": training, "evaluation": evaluation, "ceiling": ceiling},
        seed=None,
        seeds=seeds,
        cells={cell.title: cell.identity for cell in every if not cell.is_chance},
        errors={cell.title: error for cell, error in errors.items()},
    )
    for cell, error in errors.items():
        console.print(f"[bold red]{cell.title} ended with an error[/]; its output:")
        console.print(error, markup=False, highlight=False)
    if errors:
        raise ValueError(
            f"{len(errors)} of {len(every)} cells ended with an error; run again to repeat or continue them."
        )
    return rows


def _train(every: Sequence[Cell], processes: int, ray: bool, console: Console) -> dict[Cell, str]:
    """Run what is missing behind a live table; returns the errors of the cells that had one."""
    finished = {cell: result for cell in every if (result := cell.result()) is not None}
    missing = [cell for cell in every if cell not in finished]
    errors: dict[Cell, str] = {}
    if not missing:
        return errors
    with Live(live_table(every, finished, [], errors), console=console, auto_refresh=False) as live:
        for running, ended in over_ray(missing) if ray else locally(missing, processes):
            errors |= {cell: error for cell, error in ended.items() if error is not None}
            finished |= {cell: result for cell in ended if (result := cell.result()) is not None}
            for cell, error in ended.items():
                live.console.print(f"{cell.title}: {'done' if error is None else '[bold red]ended with an error'}")
            now = [cell for cell in running if cell not in ended]
            live.update(live_table(every, finished, now, errors), refresh=True)
    return errors


def _report(
    tasks: Sequence[Task], every: Sequence[Cell], folder: Path, ceiling: str | None, console: Console
) -> list[Row]:
    """Tables in the terminal, and in the folder as CSV, LaTeX and a page; returns the rows of table.csv."""
    found = {task.name: known for task in tasks if (known := groups(task, every))}
    rows: list[Row] = []
    pairs: list[Row] = []
    tables: dict[str, list[Table]] = {}
    for task in tasks:
        known = found.get(task.name, {})
        tables[task.name] = []
        for split in task.splits if known else ():
            bounds = score_range(task, split, known.get(CHANCE), known.get(ceiling or ""))
            rows += (lines := [row(group, split, bounds) for group in known.values()])
            tables[task.name].append(task_table(lines))
            pairs += (lines := comparisons(known, split))
            tables[task.name] += [comparison_table(lines)] if lines else []
    bounds_of = [
        score_range(one[next(iter(one))].task, HELD_OUT, one.get(CHANCE), one.get(ceiling or ""))
        for one in found.values()
    ]
    scores = overall.normalised(list(found.values()), bounds_of)
    few = {name: any(one[name].has_few_seeds for one in found.values()) for name in scores}
    summary = overall_table(overall.rows(scores, few)) if scores else None
    shown = [*(table for own in tables.values() for table in own), *([summary] if summary else [])]
    for table in shown:
        console.print(table.rich(), "")
    write_text(folder / "table.csv", _as_csv(rows))
    write_text(folder / "comparisons.csv", _as_csv(pairs))
    write_text(folder / "table.tex", "\n".join(map(latex, shown)))
    page = write_page(folder / "report.html", list(found.values()), tables, summary, scores, ceiling)
    console.print(f"report: {page}", soft_wrap=True)
    if any(line["few_seeds"] for line in rows):
        warnings.warn(FEW, stacklevel=3)
    return rows


def _as_csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()

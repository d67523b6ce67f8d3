"""What a training run reports while it goes on: a bar, a CSV file and TensorBoard curves."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from ocl.files import write_text

WINDOW = 100
"""Episodes that a mean in a log is of, once so many have ended."""


def is_settled(row: dict[str, float]) -> bool:
    """Whether the row's return and success are means of `WINDOW` episodes, not of the first few that ended."""
    return row.get("episodes", WINDOW) >= WINDOW  # logs of earlier versions do not say


def steps_to_success(rows: Sequence[dict[str, float]], success: float) -> float:
    """Training steps until the success rate of `WINDOW` episodes in a row first reached `success`; NaN if never."""
    reached = (row["steps"] for row in rows if is_settled(row) and row["success"] >= success)
    return next(reached, float("nan"))


def read_progress(path: str | Path) -> list[dict[str, float]]:
    """Rows of a `progress.csv`; a last line cut off by an interruption is left out, an empty cell is NaN."""
    path = Path(path)
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    complete = [line for line in lines if line.endswith("\n")]
    return [
        {name: float(value) if value else float("nan") for name, value in row.items()}
        for row in csv.DictReader(complete)
    ]


class ProgressLog:
    """One row per rollout. Continuing at `steps` drops later rows: an interrupted run wrote them after its snapshot."""

    def __init__(self, folder: str | Path, total_steps: int, steps: int = 0) -> None:
        self._path = Path(folder) / "progress.csv"
        self._total_steps = total_steps
        rows = [row for row in read_progress(self._path) if row["steps"] <= steps]
        self._columns = list(rows[0]) if rows else []
        write_text(self._path, _as_csv(rows, self._columns, header=True) if rows else "")
        self._tensorboard = SummaryWriter(str(folder), purge_step=steps + 1)
        self._bar = Progress(
            TextColumn("[bold]PPO"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("PPO", total=total_steps, completed=steps, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._tensorboard.close()

    def write(self, row: dict[str, float]) -> None:
        """`row` must hold "steps"; "return", "success" and "steps_per_second" are shown beside the bar."""
        first = not self._columns
        self._columns = self._columns or list(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_as_csv([row], self._columns, header=first))
        for name, value in row.items():
            if name != "steps" and value == value:  # NaN has no point on a curve
                self._tensorboard.add_scalar(name, value, int(row["steps"]))
        figures = f"return {row['return']:.2f}  success {row['success']:.2f}  {row['steps_per_second']:.0f} steps/s"
        self._bar.update(self._task, completed=min(row["steps"], self._total_steps), figures=figures)


def _as_csv(rows: list[dict[str, float]], columns: list[str], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: "" if row[name] != row[name] else f"{row[name]:.7g}" for name in columns})
    return text.getvalue()

"""One line per encoder and pooling, with everything a reader needs to trust it, as a table and as plain rows."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from rl_probes.evaluate import Episodes
from rl_probes.progress import read_progress, steps_to_success
from rl_probes.statistics import FEWEST_RUNS, Estimate, with_interval


@dataclass(frozen=True)
class Result:
    """What one trained agent scored. fingerprint: of its encoder, empty where it has none; tokens: (K, D).

    curve: rows of its progress.csv; episodes: on the evaluation seeds; reward: what it was paid by in training, empty
    where that was the world itself; settings: what tells it from agents that were trained otherwise on all this.
    """

    name: str
    fingerprint: str
    tokens: tuple[int, int] | None
    pooling: str
    seed: int
    episodes: Episodes
    curve: Sequence[dict[str, float]] = ()
    reward: str = ""
    settings: str = ""

    @property
    def steps(self) -> int:
        return int(self.curve[-1]["steps"]) if self.curve else 0

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.curve[-1]["seconds"] if self.curve else float("nan")

    def steps_to(self, success: float) -> float:
        """See `rl_probes.progress.steps_to_success`."""
        return steps_to_success(self.curve, success)

    def score(self, by_return: bool) -> float:
        """Mean success over the episodes, or mean return."""
        return float((self.episodes.returns if by_return else self.episodes.success).mean())


def curve_of(folder: str | Path) -> list[dict[str, float]]:
    return read_progress(Path(folder) / "progress.csv")


def reference_range(random: Result, references: Sequence[Result], by_return: bool = False) -> tuple[float, float]:
    """The scores that count as 0 and 1 where agents paid by predictors are measured by those that the world paid: of
    random play, and the mean of `references`.

    Raises:
        ValueError: references that are no better than random play.
    """
    low, high = random.score(by_return), float(np.mean([result.score(by_return) for result in references]))
    if not high > low:
        raise ValueError(
            f"the reference runs score {high:.3g}, no more than random play, {low:.3g}: no range to count by."
        )
    return low, high


def rows(results: Sequence[Result], split: str, by_return: bool = False) -> list[dict[str, Any]]:
    """Plain rows {"name", "value", "unit", "seed", "split"}, one per agent."""
    unit = "return" if by_return else "success rate"
    return [
        {"name": f"agent/{r.name}", "value": r.score(by_return), "unit": unit, "seed": r.seed, "split": split}
        for r in results
    ]


def table(
    results: Sequence[Result],
    *,
    task: str,
    split: str,
    environment: str,
    by_return: bool = False,
    score_range: tuple[float, float] = (0.0, 1.0),
) -> Table:
    """Results that differ only in their seed share a line: IQM [95% interval], mean +- sd over seeds.

    environment: its build, since pixels can differ between versions of a simulator.
    score_range: the scores that count as 0 and 1 in the column "normalised".

    Raises:
        ValueError: no results, results on different evaluation seeds or action modes, which cannot share a table, a
            seed twice in one line, or a range that does not rise.
    """
    if not results:
        raise ValueError("a table needs at least one result.")
    if not score_range[0] < score_range[1]:
        raise ValueError(f"score_range: the score that counts as 1 must lie above that of 0, got {score_range}.")
    first = results[0].episodes
    for result in results:
        if result.episodes.action_mode != first.action_mode or list(result.episodes.seeds) != list(first.seeds):
            raise ValueError(f"{result.name} was evaluated on other seeds or actions than {results[0].name}.")

    metric = "return" if by_return else "success"
    low, high = score_range
    found = Table(
        title=f"{task}: {metric} on {split}", title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD
    )
    rewarded = any(result.reward for result in results)
    # Three facts to a cell: a terminal is 80 characters wide.
    found.add_column("\n".join(["encoder", "tokens, frozen or not", "pooling", *(["reward"] if rewarded else [])]))
    for column in (
        ("IQM [95%]", "mean ± sd", "normalised"),
        ("steps", "to 50%", "to 80%"),
        ("seeds", "steps/s", "hours"),
    ):
        found.add_column("\n".join(column), justify="right", no_wrap=True)

    too_few = False
    groups = _by_everything_but_seed(results)
    lines = Counter(_visible(group[0]) for group in groups)
    for group in groups:
        scores = np.array([result.score(by_return) for result in group])
        too_few = too_few or len(scores) < FEWEST_RUNS
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # said once, below
            estimate = with_interval(scores)
        one = group[0]
        spread = f"{scores.mean():.3f} ± {scores.std(ddof=1):.3f}" if len(scores) > 1 else f"{scores.mean():.3f}"
        trained = bool(one.curve)
        tokens = f"{one.tokens[0]} × {one.tokens[1]}" if one.tokens else "-"
        paid = [one.reward or ("true" if trained else "-")] if rewarded else []
        cells = (
            (
                f"{one.name} {one.fingerprint[:8]}".strip(),
                f"{tokens}, frozen" if one.fingerprint else tokens,
                (one.pooling or "-") + (f", settings {one.settings}" if lines[_visible(one)] > 1 else ""),
                *paid,
            ),
            (_interval(estimate, len(scores)), spread, f"{(scores.mean() - low) / (high - low):.3f}"),
            (
                f"{one.steps:,}" if trained else "-",
                *(_count(np.array([result.steps_to(level) for result in group])) for level in (0.5, 0.8)),
            ),
            (
                str(len(scores)),
                f"{np.mean([result.steps_per_second for result in group]):,.0f}" if trained else "-",
                f"{np.sum([result.curve[-1]['seconds'] for result in group]) / 3600:.2f}" if trained else "-",
            ),
        )
        found.add_row(*("\n".join(cell) + "\n" for cell in cells))
    caption = (
        f"{len(first.seeds)} episodes per agent, seeds {first.seeds[0]} to {first.seeds[-1]}, {first.action_mode} "
        f"actions; last policy, not the best; normalised: {low:g} → 0, {high:g} → 1; to 50%, to 80%: training steps, "
        f"median; {environment}"
    )
    if too_few:
        text = f"fewer than {FEWEST_RUNS} seeds: an interval marked (!) is decoration"
        warnings.warn(text, stacklevel=2)
        caption += f"; (!) {text}"
    found.caption = caption
    return found


def _visible(result: Result) -> tuple[Any, ...]:
    """What a line of the table tells of its agents besides their seeds and scores."""
    return result.name, result.fingerprint, result.pooling, result.reward, result.steps


def _by_everything_but_seed(results: Sequence[Result]) -> list[list[Result]]:
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault((_visible(result), result.settings), []).append(result)
    for group in groups.values():
        seeds = [result.seed for result in group]
        if len(set(seeds)) < len(seeds):
            raise ValueError(
                f"{group[0].name} has a seed twice among {sorted(seeds)}: the same run again narrows no interval."
            )
    return list(groups.values())


def _interval(estimate: Estimate, runs: int) -> str:
    if runs == 1:
        return f"{estimate.value:.3f} (!)"
    mark = " (!)" if runs < FEWEST_RUNS else ""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]{mark}"


def _count(steps: np.ndarray[Any, Any]) -> str:
    """The median over seeds; never where half of them or more never got there."""
    median = float(np.median(np.where(np.isnan(steps), np.inf, steps)))
    return f"{median:,.0f}" if np.isfinite(median) else "-"

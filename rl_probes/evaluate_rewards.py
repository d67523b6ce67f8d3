"""How good a progress predictor is, always beside controls that a useful one must beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.table import Table
from scipy.stats import rankdata

from rl_probes.distances import bootstrap, check_gamma, pearson_distance_interval
from rl_probes.fit_rewards import fit_progress, flattened, pooled
from rl_probes.recording import Goals, Recording
from rl_probes.reward_metrics import backwards, calibration_error, direction_hits, kendall, per_trajectory, spearman
from rl_probes.reward_scores import Scores, controls, scores_of, scores_of_states
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.set_progress import ProgressHead

METRICS = {
    "epic": "distance to the true progress over states, chance 0.707",
    "step_distance": "distance of gamma * p(s') - p(s) to the true difference, chance 0.707",
    "spearman": "rank correlation within a trajectory, mean",
    "success_auroc": "success of an episode by its last value, chance 0.5",
}
"""The columns of the table."""

FURTHER_METRICS = {
    "kendall": "Kendall's tau-b within a trajectory, mean",
    "order_forward": "rank correlation with time within a trajectory (VOC+), which the clock wins",
    "order_backward": "the same with the episode played backwards (VOC-): negative if it follows the frames, clock 1",
    "direction_accuracy": "sign of p(s') - p(s) where the truth changes, 0 is half right; the clock gets what rises",
    "success_calibration": "expected calibration error of the last value as the probability of success, in 10 bins; "
    "absent for scores outside [0, 1]",
}
"""Rows without a column. Progress need not be a probability, so its calibration may be poor where all else is right."""

UNITS = {
    "epic": "distance",
    "step_distance": "distance",
    "spearman": "rho",
    "success_auroc": "probability",
    "kendall": "tau",
    "order_forward": "rho",
    "order_backward": "rho",
    "direction_accuracy": "fraction",
    "success_calibration": "probability",
}


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties half: the Mann-Whitney statistic. NaN where one of the
    two is absent."""
    score, positive = np.asarray(score), np.asarray(positive, bool)
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    ranks = rankdata(score)[positive].sum()
    return float((ranks - count * (count + 1) / 2) / (count * others))


def spearman_per_trajectory(
    first: NDArray[Any], second: NDArray[Any], episodes: NDArray[Any]
) -> tuple[NDArray[np.float64], int]:
    """Spearman's correlation inside every episode, and how many episodes were dropped because `second` (the truth) is
    constant there. A constant `first` correlates with nothing: 0."""
    return per_trajectory(spearman, first, second, episodes)


def fitted_controls(train: Recording, *, epochs: int = 20, seed: int = 0) -> dict[str, ProgressHead]:
    """Progress heads that a head for sets must beat: an MLP on the slots in the order they come, and one on their mean.

    15 % of the episodes of `train` choose the best epoch.
    """
    fit, val = train.split((0.85, 0.15), seed=seed)
    builds = {"flattened_mlp": flattened, "pooled_mlp": pooled}
    return {name: fit_progress(fit, val, build, epochs=epochs, seed=seed) for name, build in builds.items()}


def evaluate_progress(
    predictors: Mapping[str, RewardPredictor],
    recording: Recording,
    *,
    gamma: float = 0.99,
    split: str = "test",
    seed: int = 0,
    resamples: int = 1000,
    train: Recording | None = None,
    control_epochs: int = 20,
    goals: Goals | None = None,
) -> list[dict[str, Any]]:
    """Every predictor and every control against the true progress, with 95 % intervals over episodes.

    Rows are {"name": "reward/<predictor>/<metric>", "value", "unit", "seed", "split", "low", "high"}; `METRICS` and
    `FURTHER_METRICS` say what the metrics are. Frames whose progress is unknown are left out, and for the metrics of
    success episodes that were cut. What nothing can be said of is NaN: steps, where every episode has one frame.

    With `train`, the recording that the predictors were fitted on, `fitted_controls` stand beside them, fitted on
    it for `control_epochs`. `goals` are those of the frames of `recording`, for predictors that read one.

    Raises:
        ValueError: a head that was fitted on another encoder's slots, no frame with a known progress, `train` that
            shares an episode with `recording`, or a predictor that has the name of a control.
    """
    heads, baselines = dict(predictors), controls(recording, seed)
    fitted: dict[str, ProgressHead] = {}
    if train is not None:
        if np.intersect1d(train.episode, recording.episode).size:
            raise ValueError("train and the recording share episodes; split by episode (Recording.split).")
        fitted = fitted_controls(train, epochs=control_epochs, seed=seed)
    if taken := sorted(heads.keys() & (baselines.keys() | fitted.keys())):
        raise ValueError(f"{', '.join(taken)} is the name of a control; call the predictor something else.")
    heads |= fitted
    scores = {name: scores_of(head, recording, gamma, goals) for name, head in heads.items()}
    scores |= {name: scores_of_states(state, recording, gamma) for name, state in baselines.items()}
    return evaluate_scores(scores, recording, gamma=gamma, split=split, seed=seed, resamples=resamples)


def evaluate_scores(
    scores: Mapping[str, Scores],
    recording: Recording,
    *,
    gamma: float = 0.99,
    split: str = "test",
    seed: int = 0,
    resamples: int = 1000,
) -> list[dict[str, Any]]:
    """The rows of `evaluate_progress` for scores that are there already.

    Raises:
        ValueError: no frame with a known progress, or gamma outside [0, 1].
    """
    check_gamma(gamma)
    known = ~np.isnan(recording.progress)
    if not known.any():
        raise ValueError("no frame of the recording has a known progress; this world has none to compare with.")
    truth = recording.progress.astype(np.float64)
    first, second = recording.pairs()
    both = known[first] & known[second]
    first, second = first[both], second[both]
    gain = gamma * truth[second] - truth[first]
    finals = recording.finals()
    episode, step = recording.episode[known], recording.step[known]
    played_backwards = backwards(episode)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    rows = []
    for name, given in scores.items():
        score = given.state
        trajectories, dropped = spearman_per_trajectory(score[known], truth[known], episode)
        concordance, _ = per_trajectory(kendall, score[known], truth[known], episode)
        forward, too_short = per_trajectory(spearman, score[known], step, episode)
        # Played backwards, a score of frames comes in reverse; the clock sees no frames and goes on counting.
        reverse = score[known] if name == "clock" else score[known][played_backwards]
        backward, _ = per_trajectory(spearman, reverse, step, episode)
        hits, counted = direction_hits(score[second] - score[first], truth[second] - truth[first])
        found = {
            "epic": pearson_distance_interval(score[known], truth[known], episode, **options),
            "step_distance": (np.nan, np.nan, np.nan)
            if not len(gain)
            else pearson_distance_interval(given.step[both], gain, recording.episode[first], **options),
            "spearman": _mean(trajectories, options),
            "success_auroc": bootstrap(auroc, score[finals], recording.success[finals], **options),
            "kendall": _mean(concordance, options),
            "order_forward": _mean(forward, options),
            "order_backward": _mean(backward, options),
            "direction_accuracy": _mean_of_steps(hits[counted], recording.episode[first][counted], options),
        }
        if score[finals].size and score[finals].min() >= 0 and score[finals].max() <= 1:
            found["success_calibration"] = bootstrap(
                calibration_error, score[finals], recording.success[finals], **options
            )
        for metric, (value, low, high) in found.items():
            rows.append(_row(f"reward/{name}/{metric}", value, UNITS[metric], seed, split, low=low, high=high))
    rows.append(_row("reward/trajectories_without_change", dropped, "episodes", seed, split))
    rows.append(_row("reward/trajectories_without_order", too_short, "episodes", seed, split))
    rows.append(_row("reward/episodes", len(np.unique(recording.episode)), "episodes", seed, split))
    rate = float(recording.success[finals].mean()) if len(finals) else np.nan
    rows.append(_row("reward/success_rate", rate, "fraction", seed, split))
    return rows


def table(rows: list[dict[str, Any]], title: str = "progress predicted from slots") -> Table:
    """The rows of `evaluate_progress`, a line per predictor and a column per metric."""
    found = Table(title=title, show_edge=False)
    found.add_column("predictor")
    for metric in METRICS:
        found.add_column(metric, justify="right")
    by_name = {row["name"]: row for row in rows}
    for name in dict.fromkeys(row["name"].split("/")[1] for row in rows if row["name"].count("/") == 2):
        cells = [by_name[f"reward/{name}/{metric}"] for metric in METRICS]
        found.add_row(name, *(f"{row['value']:.3f}\n[dim]{row['low']:.3f}..{row['high']:.3f}[/]" for row in cells))
    found.caption = "; ".join(f"{metric}: {meaning}" for metric, meaning in METRICS.items())
    return found


def _mean(values: NDArray[np.float64], options: dict[str, Any]) -> tuple[float, float, float]:
    """Mean over episodes (e) and its interval; NaN without episodes."""
    if not len(values):
        return np.nan, np.nan, np.nan
    return bootstrap(lambda drawn: float(drawn.mean()), values, **options)


def _mean_of_steps(
    values: NDArray[np.float64], episodes: NDArray[Any], options: dict[str, Any]
) -> tuple[float, float, float]:
    """Mean over all steps (n), its interval over whole episodes; NaN without steps."""
    if not len(values):
        return np.nan, np.nan, np.nan
    index = np.unique(episodes, return_inverse=True)[1]
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    return bootstrap(lambda total, count: float(total.sum() / count.sum()), sums, counts, **options)


def _row(name: str, value: float, unit: str, seed: int, split: str, **extra: float) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "seed": seed, "split": split, **extra}

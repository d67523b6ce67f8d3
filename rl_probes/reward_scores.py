"""What predictors, and controls that know nothing of slots, say of the frames and the steps of a recording."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_probes.predictions import predict_recording, predict_steps
from rl_probes.recording import Goals, Recording
from rl_probes.rewards.predictor import RewardPredictor


@dataclass(frozen=True)
class Scores:
    """state (n) of every frame, step (m) of every single step (`Recording.pairs`)."""

    state: NDArray[np.float64]
    step: NDArray[np.float64]


def scores_of_states(state: ArrayLike, recording: Recording, gamma: float) -> Scores:
    """A potential (n), whose steps are worth gamma * p(s') - p(s)."""
    values = np.asarray(state, np.float64)
    first, second = recording.pairs()
    return Scores(values, gamma * values[second] - values[first])


def scores_of(predictor: RewardPredictor, recording: Recording, gamma: float, goals: Goals | None = None) -> Scores:
    """A potential's steps are its differences; a reward of steps makes a state worth the sum of those that led there,
    from the first frame of its episode in the recording; a reward of states pays a step for where it leads.

    Raises:
        ValueError: a head that was fitted on another encoder's slots, or a predictor that reads a goal and gets none.
    """
    if predictor.kind == "potential":
        return scores_of_states(predict_recording(predictor, recording, goals), recording, gamma)
    step, _, second = predict_steps(predictor, recording, goals)
    steps = step.astype(np.float64)
    if predictor.state_dependence == "state":
        return Scores(predict_recording(predictor, recording, goals).astype(np.float64), steps)
    paid = np.zeros(len(recording))
    paid[second] = steps
    total = np.cumsum(paid)
    names, start = np.unique(recording.episode, return_index=True)
    return Scores(total - total[start][np.searchsorted(names, recording.episode)], steps)


def controls(recording: Recording, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Progress predictions (n) that know nothing of the slots, and the truth itself as the ceiling."""
    return {
        "constant": np.full(len(recording), 0.5),
        # [seed, 1], since other draws from `seed` alone may have made or split the recording
        "random": np.random.default_rng([seed, 1]).random(len(recording)),
        "clock": recording.step.astype(np.float64),
        "oracle": recording.progress.astype(np.float64),
    }

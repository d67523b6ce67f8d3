"""Labels of recorded frames that need no simulator: from time, from stages, from returns; and fragments of episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_probes.recording import Recording
from rl_probes.rewards.stages import stage_labels

Ends = dict[int, list[int]]
"""By episode, the step at which each stage was done, the last one at the end of the task."""


def ends_without_marks(recording: Recording) -> Ends:
    """Every successful episode as a demonstration of one stage: progress is the share of its time, i / N."""
    return {
        int(recording.episode[final]): [int(recording.step[final])]
        for final in recording.finals()
        if recording.success[final] and recording.step[final] > 0
    }


def ends_of_stages(recording: Recording, stage: ArrayLike) -> Ends:
    """The ends of the stages 0..S-1 of every successful episode, from the stage (n) that each frame is in.

    A stage is done when a later one is reached for the first time; falling back does not undo it. Episodes that skip a
    stage are left out: it has no share in their time.

    Raises:
        ValueError: not one stage per frame.
    """
    stages = np.asarray(stage, np.int64)
    if stages.shape != (len(recording),):
        raise ValueError(f"every frame needs a stage ({len(recording)}), got {stages.shape}.")
    count = int(stages.max(initial=0)) + 1
    ends: Ends = {}
    for final in recording.finals():
        if not recording.success[final]:
            continue
        frames = np.flatnonzero(recording.episode == recording.episode[final])
        reached = np.maximum.accumulate(stages[frames])
        steps = [int(np.argmax(reached > k)) for k in range(count - 1)] + [int(recording.step[final])]
        if (np.diff([0, *steps]) > 0).all():
            ends[int(recording.episode[final])] = steps
    return ends


def stage_labels_of(recording: Recording, ends: Mapping[int, Sequence[int]]) -> NDArray[np.float64]:
    """y = k + tau (n) of SARM for the frames of demonstrations, NaN for those of other episodes."""
    labels = np.full(len(recording), np.nan)
    for name in np.unique(recording.episode).tolist():
        if name in ends:
            frames = recording.episode == name
            steps = recording.step[frames]
            labels[frames] = stage_labels(ends[name], max(int(steps.max()), ends[name][-1]) + 1)[steps]
    return labels


def with_return_progress(recording: Recording, low: float, high: float) -> Recording:
    """Progress = the episode's return so far between the returns that count as 0 and as 1, clipped to [0, 1].

    For worlds that say nothing of progress but pay it out in parts, such as most Procgen games with the returns of
    `rl_probes.envs.procgen_scores`; where all is paid at the end it says nothing before.

    Raises:
        ValueError: high is not above low, or an episode without its first frame or with a step that nobody paid for:
            its return is not known.
    """
    if not high > low:
        raise ValueError(f"the return that counts as 1 must be above the one that counts as 0, got {high} and {low}.")
    names, first = np.unique(recording.episode, return_index=True)
    if recording.step[first].any():
        raise ValueError("an episode begins after its first frame, so that its return is not known; keep whole ones.")
    if np.isnan(recording.reward).any():
        raise ValueError(
            "a step has no reward (a rewound one, say), so that returns are not known; label, then rewind."
        )
    total = np.cumsum(recording.reward, dtype=np.float64)
    before = (total - recording.reward)[first]
    returns = total - before[np.searchsorted(names, recording.episode)]
    return replace(recording, progress=np.clip((returns - low) / (high - low), 0.0, 1.0).astype(np.float32))


def with_discounted_success(recording: Recording, discount: float) -> Recording:
    """Progress = discount ** (steps until the success that the episode ends in), 0 where it ends otherwise.

    Regressed, it is the value of the players that were recorded, in a task that pays 1 for its success. A potential for
    shaping is best near the value of good play: with that very value, all that is left to learn is zero (Ng, Harada and
    Russell, 1999, section 4). Unlike a distance to the goal it also pays for the way there, and it needs no true
    progress. A time limit counts as an end without success. Episodes that were not recorded to their end are NaN.

    Raises:
        ValueError: a discount outside (0, 1].
    """
    if not 0.0 < discount <= 1.0:
        raise ValueError(f"the discount must be in (0, 1], got {discount}.")
    ends = dict(zip(recording.episode[finals := recording.finals()].tolist(), finals.tolist(), strict=True))
    names, of_name = np.unique(recording.episode, return_inverse=True)
    final = np.array([ends.get(name, -1) for name in names.tolist()], np.intp)[of_name]
    left = recording.step[final] - recording.step
    value = np.where(recording.success[final], float(discount) ** np.maximum(left, 0), 0.0)
    return replace(recording, progress=np.where(final < 0, np.nan, value).astype(np.float32))


def fragments(recording: Recording, count: int, length: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Indices (count, length) of consecutive frames of one episode each, all such fragments equally likely.

    Raises:
        ValueError: length below 1, or no episode that long.
    """
    if length < 1:
        raise ValueError(f"a fragment has at least one frame, got {length}.")
    count_after = len(recording) - length + 1
    starts = np.arange(max(0, count_after))
    last = starts + length - 1
    whole = (recording.episode[starts] == recording.episode[last]) & (
        recording.step[last] - recording.step[starts] == length - 1
    )
    if not whole.any():
        raise ValueError(f"no episode of the recording has {length} frames; ask for shorter fragments.")
    chosen = generator.choice(starts[whole], count)
    return np.asarray(chosen[:, None] + np.arange(length))

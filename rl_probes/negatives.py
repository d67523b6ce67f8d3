"""Episodes and goals that must not score: without them a head learns that later is better and goals do not matter.

The first three make further recordings (`Recording.joined` puts them beside the original); swapped goals are for
predictors that read a goal. RoboReward (2026) relabels, clips and edits videos; here it is slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ocl.matching import optimal_assignment
from rl_probes.recording import Recording
from rl_probes.rewards.transition import SlotTransition


def clipped(recording: Recording, generator: np.random.Generator, shortest: float = 0.2) -> Recording:
    """Every episode cut after a share of its frames drawn from [shortest, 1): it stops before it gets there.

    Labels stay those of the frames, so the end of a clip is worth the progress it reached; it is a time limit and no
    success. Label demonstrations before they are clipped: the share of the time of a clip is not of the task.

    Raises:
        ValueError: shortest outside (0, 1).
    """
    if not 0 < shortest < 1:
        raise ValueError(f"the shortest share of an episode must be in (0, 1), got {shortest}.")
    kept = []
    for frames in _episodes(recording):
        count = int(np.ceil(generator.uniform(shortest, 1.0) * (len(frames) - 1)))
        kept.append(frames[: max(count, 1)])
    part = recording.take(np.concatenate(kept))
    last = np.cumsum([len(frames) for frames in kept]) - 1
    ends = np.zeros(len(part), bool)
    ends[last] = True
    none = np.zeros(len(part), bool)
    return replace(part, terminated=none, success=none.copy(), truncated=ends)


def rewound(recording: Recording, generator: np.random.Generator) -> Recording:
    """Every episode played to a random frame and from there backwards to a random earlier one (SARM, 2025).

    Progress follows the frames, so what comes late need not be worth more. No action led backwards and nobody paid
    for it: action -1 and reward NaN there. No episode of fewer than three frames can turn back; those are left out.
    """
    kept, forwards = [], []
    for frames in _episodes(recording):
        if len(frames) < 3:
            continue
        turn = int(generator.integers(2, len(frames)))
        stop = int(generator.integers(0, turn - 1))
        back = frames[stop:turn][::-1]
        kept.append(np.concatenate([frames[: turn + 1], back]))
        forwards.append(np.arange(len(kept[-1])) <= turn)
    if not kept:
        raise ValueError("every episode is shorter than three frames; there is nothing to play backwards.")
    part, ahead = recording.take(np.concatenate(kept)), np.concatenate(forwards)
    ends = np.zeros(len(part), bool)
    ends[np.cumsum([len(frames) for frames in kept]) - 1] = True
    none = np.zeros(len(part), bool)
    return replace(
        part,
        action=np.where(ahead, part.action, -1).astype(part.action.dtype),
        reward=np.where(ahead, part.reward, np.nan).astype(part.reward.dtype),
        terminated=none,
        success=none.copy(),
        truncated=ends,
        step=np.concatenate([np.arange(len(frames)) for frames in kept]).astype(part.step.dtype),
    )


def minimally_edited(recording: Recording) -> Recording:
    """The last state of every success with one slot put back to where it was at the start: almost there, and not.

    The slot is the one that changed most between the episode's first and last frame, slots paired by the assignment
    of least total distance. The result is worth the progress of the first frame, which is exact where a single object
    moves (the agent of a touch task), and an assumption elsewhere. One frame per episode.

    Raises:
        ValueError: no successful episode whose first frame is here.
    """
    finals = recording.finals()
    finals = finals[recording.success[finals] & (recording.step[finals] > 0)]
    firsts = finals - recording.step[finals]
    whole = (firsts >= 0) & (recording.episode[firsts] == recording.episode[finals])
    finals, firsts = finals[whole], firsts[whole]
    if not len(finals):
        raise ValueError("no successful episode of the recording is whole; there is nothing to edit.")
    part = recording.take(finals)
    now, before = part.vectors.astype(np.float32), recording.vectors[firsts].astype(np.float32)
    distance = torch.cdist(torch.from_numpy(now), torch.from_numpy(before))  # (n K K)
    valid, valid_before = torch.from_numpy(part.valid), torch.from_numpy(recording.valid[firsts])
    partner, paired = optimal_assignment(distance, valid, valid_before)  # (n K)
    change = distance.gather(2, partner[..., None]).squeeze(2).masked_fill(~paired, -1.0)
    rows, moved = np.arange(len(part)), change.argmax(1).numpy()
    vectors = part.vectors.copy()
    vectors[rows, moved] = recording.vectors[firsts[rows], partner.numpy()[rows, moved]]
    return replace(
        part,
        vectors=vectors,
        progress=recording.progress[firsts],
        action=np.full_like(part.action, -1),
        reward=np.zeros_like(part.reward),
        terminated=np.zeros_like(part.terminated),
        truncated=np.ones_like(part.truncated),
        success=np.zeros_like(part.success),
        step=np.zeros_like(part.step),
    )


def swapped_goals(transition: SlotTransition, generator: torch.Generator) -> SlotTransition:
    """One goal slot of every row, drawn by its weight, replaced by another object of the same state s.

    The most alike slot of s is taken for the goal object itself and never chosen. What the state is worth under the
    new goal is the caller's to say; less, where the old goal was reached. Rows whose state has a single slot keep
    their goal.

    Raises:
        ValueError: no goal_slots, or a row whose goal slots all weigh nothing.
    """
    goal, weight, valid = transition.goal_slots, transition.goal_weight, transition.valid
    if goal is None or weight is None or valid is None:
        raise ValueError("swapping goals needs goal_slots, which this transition lacks.")
    if not bool((weight.sum(1) > 0).all()):
        raise ValueError("a goal whose slots all weigh nothing cannot be swapped; leave that row out.")
    rows = torch.arange(len(transition))
    chosen = torch.multinomial(weight, 1, generator=generator).squeeze(1)  # (B)
    own = (transition.slots - goal[rows, chosen][:, None]).square().sum(2).masked_fill(~valid, torch.inf).argmin(1)
    others = valid.clone()
    others[rows, own] = False
    alone = ~others.any(1)
    others[alone] = valid[alone] | ~valid[alone].any(1, keepdim=True)
    other = torch.multinomial(others.float(), 1, generator=generator).squeeze(1)
    swapped = goal.clone()
    swapped[rows, chosen] = torch.where(alone[:, None], goal[rows, chosen], transition.slots[rows, other])
    return replace(transition, goal_slots=swapped)


def _episodes(recording: Recording) -> list[NDArray[np.intp]]:
    """The frames of every episode, in order."""
    cuts = np.flatnonzero(recording.episode[1:] != recording.episode[:-1]) + 1
    return np.split(np.arange(len(recording)), cuts)

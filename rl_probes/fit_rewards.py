"""Fit reward predictors on recorded slots: from progress, from steps, from demonstrations, from preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from rl_probes.fitting import check_parts, fresh_head, optimise, shuffled
from rl_probes.labels import fragments, stage_labels_of
from rl_probes.predictions import predict
from rl_probes.recording import Recording
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.hops import encode_hop
from rl_probes.rewards.preference_reward import PreferenceReward
from rl_probes.rewards.preferences import preference_loss, synthetic_labels
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress, PooledProgress, ProgressHead
from rl_probes.rewards.stage_progress import StageProgress
from rl_probes.rewards.stages import mean_shares
from rl_probes.rewards.transition import SlotTransition

Build = Callable[[int, int], ProgressHead]
"""(num_slots, dim) -> a fresh head."""


def deep_set(num_slots: int, dim: int) -> ProgressHead:
    return DeepSetProgress(dim)


def flattened(num_slots: int, dim: int) -> ProgressHead:
    return FlattenedProgress(dim, num_slots)


def pooled(num_slots: int, dim: int) -> ProgressHead:
    return PooledProgress(dim)


def fit_progress(
    train: Recording,
    val: Recording,
    build: Build = deep_set,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    weight_decay: float = 0.1,
    patience: int = 10,
    seed: int = 0,
) -> ProgressHead:
    """Regress the true progress of single frames by mean squared error; returns the head of the best epoch on `val`.

    Slots are standardised by the training frames and put in a new random order at every visit, which costs nothing
    and lets no head learn their order. Stops when `val` has not improved for `patience` epochs. A function of its
    arguments and `seed` alone.

    Raises:
        ValueError: the two parts share an episode or come from different encoders, or no frame's progress is known.
    """
    check_parts(train, val)
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(build, train, seed)
    vectors, valid, target = _known(train)
    val_vectors, val_valid, val_target = _known(val)

    def loss(rows: Tensor) -> Tensor:
        slots, mask = shuffled(vectors[rows], valid[rows], generator)
        return mse_loss(head(SlotTransition(slots, mask)).reward, target[rows])

    def validate() -> float:
        return float(np.mean((predict(head, val_vectors, val_valid) - val_target.numpy()) ** 2))

    return optimise(
        head,
        len(target),
        loss,
        validate,
        generator,
        what="progress",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
    )


StepTarget = Callable[[Recording, NDArray[np.intp], NDArray[np.intp]], NDArray[np.float64]]
"""(recording, frames of s (m), frames of s' (m)) -> what the step is worth (m), in [-1, 1], NaN where unknown."""


def hop_of_progress(recording: Recording, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
    """The share of what is left, or of what was reached, that lies between two states (`rl_probes.rewards.hops`)."""
    progress = torch.from_numpy(recording.progress.astype(np.float64))
    return encode_hop(progress[first], progress[second]).numpy()


def gain_of_progress(recording: Recording, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
    """p(s') - p(s)."""
    progress = recording.progress.astype(np.float64)
    return np.asarray(progress[second] - progress[first])


def reward_of_step(recording: Recording, first: NDArray[np.intp], second: NDArray[np.intp]) -> NDArray[np.float64]:
    """What the environment paid, which must lie in [-1, 1]; of single steps alone."""
    reward = recording.reward.astype(np.float64)[second]
    return np.asarray(np.where(recording.step[second] == recording.step[first] + 1, reward, np.nan))


def fit_steps(
    train: Recording,
    val: Recording,
    target: StepTarget = gain_of_progress,
    *,
    gaps: Sequence[int] = (1,),
    balance: bool = False,
    epochs: int = 20,
    seed: int = 0,
) -> HopReward:
    """Regress what lies between two states of an episode with a head that sees both, by mean squared error.

    Targets are divided by the largest of them, so that they fill the head's range: its rewards are in that unit.
    Validation is on single steps, as rewards are used.

    gaps:    how many frames the two states lie apart; larger ones show more change than noise.
    balance: weigh pairs so that targets of every size, in bins of 0.1, count alike at every gap. Without, where most
             steps change nothing, most of the loss is about nothing, which is also what the head will meet.

    Raises:
        ValueError: the two parts share an episode or come from different encoders, no pair's target is known, all are
            zero, or one lies outside [-1, 1].
    """
    check_parts(train, val)
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(lambda num_slots, dim: HopReward(dim), train, seed)
    first, second, values = _steps(train, target, gaps)
    unit = float(np.abs(values).max())
    if unit == 0:
        raise ValueError("every target of the training steps is zero; there is nothing to learn.")
    weight = torch.from_numpy(_balanced(values / unit, second - first) if balance else np.ones(len(values))).float()
    wanted = torch.from_numpy(values / unit).float()
    vectors, valid = torch.from_numpy(train.vectors), torch.from_numpy(train.valid)
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    val_one, val_two, val_values = _steps(val, target, (1,))
    val_vectors, val_valid = torch.from_numpy(val.vectors), torch.from_numpy(val.valid)

    def loss(rows: Tensor) -> Tensor:
        now = shuffled(vectors[one[rows]], valid[one[rows]], generator)
        then = shuffled(vectors[two[rows]], valid[two[rows]], generator)
        error = head(SlotTransition(*now, *then)).reward - wanted[rows]
        mean: Tensor = (weight[rows] * error.square()).mean()
        return mean

    def validate() -> float:
        then = {"next_slots": val_vectors[val_two], "next_valid": val_valid[val_two]}
        return float(
            np.mean((predict(head, val_vectors[val_one], val_valid[val_one], **then) - val_values / unit) ** 2)
        )

    return optimise(head, len(values), loss, validate, generator, what="steps", epochs=epochs)


def fit_stages(
    train: Recording, val: Recording, ends: Mapping[int, Sequence[int]], *, epochs: int = 20, seed: int = 0
) -> StageProgress:
    """Fit stage and progress within it from demonstrations (SARM), which need no true progress.

    ends: by episode, the step at which each stage was done (`rl_probes.labels.ends_of_stages`, or
        `ends_without_marks` for one stage); episodes without an entry are no demonstrations and are left out.

    Raises:
        ValueError: the two parts share an episode or come from different encoders, one of them has no demonstration,
            or demonstrations with different numbers of stages.
    """
    check_parts(train, val)
    shown = [ends[name] for name in np.unique(train.episode).tolist() if name in ends]
    labels, val_labels = stage_labels_of(train, ends), stage_labels_of(val, ends)
    if np.isnan(labels).all() or np.isnan(val_labels).all():
        raise ValueError("train and val need at least one demonstration each: an episode with an entry in ends.")
    shares = mean_shares(shown)
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(lambda num_slots, dim: StageProgress(dim, len(shares)), train, seed)
    head.shares.copy_(torch.from_numpy(shares))
    (slots, mask, target), (val_slots, val_mask, val_target) = _rows(train, labels), _rows(val, val_labels)

    def loss(rows: Tensor) -> Tensor:
        return head.loss(SlotTransition(*shuffled(slots[rows], mask[rows], generator)), target[rows])

    @torch.no_grad()
    def validate() -> float:
        return float(head.loss(SlotTransition(val_slots, val_mask), val_target))

    return optimise(head, len(target), loss, validate, generator, what="stages", epochs=epochs)


def fit_preferences(
    train: Recording,
    val: Recording,
    *,
    judge: Callable[[Recording], ArrayLike] = lambda recording: recording.progress,
    pairs: int = 1000,
    length: int = 10,
    members: int = 3,
    epochs: int = 20,
    seed: int = 0,
) -> PreferenceReward:
    """Fit an ensemble of rewards from which of two fragments a synthetic judge prefers, all else unknown.

    judge: what every frame (n) is worth to the judge, who prefers the larger sum and says 0.5 on a tie.
    pairs: of fragments of `length` frames; a quarter as many of `val` choose the epoch.

    Raises:
        ValueError: the two parts share an episode or come from different encoders, or no episode is `length` long.
    """
    check_parts(train, val)
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(lambda num_slots, dim: PreferenceReward(dim, members), train, seed)
    rng = np.random.default_rng(seed)
    asked, preferred = _preferences(train, judge, pairs, length, rng)
    val_asked, val_preferred = _preferences(val, judge, -(-pairs // 4), length, rng)
    slots, mask = torch.from_numpy(train.vectors), torch.from_numpy(train.valid)
    val_slots, val_mask = torch.from_numpy(val.vectors), torch.from_numpy(val.valid)

    def loss(rows: Tensor) -> Tensor:
        one, two = asked[rows].unbind(1)  # (b T) frames
        return head.loss(head.differences(slots[one], mask[one], slots[two], mask[two]), preferred[rows])

    @torch.no_grad()
    def validate() -> float:
        one, two = val_asked.unbind(1)
        differences = head.differences(val_slots[one], val_mask[one], val_slots[two], val_mask[two])
        return float(preference_loss(differences, val_preferred.expand_as(differences), noise=0.1))

    return optimise(head, len(asked), loss, validate, generator, what="preferences", epochs=epochs, batch_size=32)


def _preferences(
    recording: Recording, judge: Callable[[Recording], ArrayLike], pairs: int, length: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Frames of two fragments each (pairs 2 T), and whether the first is preferred (pairs): 1, 0, or 0.5."""
    chosen = fragments(recording, 2 * pairs, length, rng).reshape(pairs, 2, length)
    worth = np.asarray(judge(recording), np.float64)[chosen].sum(2)  # (pairs 2)
    if np.isnan(worth).any():
        raise ValueError("the judge cannot tell what some frames are worth; give one that knows every frame.")
    return torch.from_numpy(chosen), synthetic_labels(torch.from_numpy(worth[:, 0] - worth[:, 1])).float()


def _steps(
    recording: Recording, target: StepTarget, gaps: Sequence[int]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Frames of s, of s' and the target of every pair at these gaps whose target is known."""
    found = [recording.pairs(gap) for gap in gaps]
    first, second = (np.concatenate(frames) for frames in zip(*found, strict=True))
    values = target(recording, first, second)
    known = ~np.isnan(values)
    if not known.any():
        raise ValueError("no step of the recording has a known target; this world has none to learn.")
    if np.abs(values[known]).max() > 1:
        raise ValueError(f"targets of steps must lie in [-1, 1], got {np.abs(values[known]).max():.3g}.")
    return first[known], second[known], values[known]


def _balanced(values: NDArray[np.float64], gap: NDArray[np.intp]) -> NDArray[np.float64]:
    """Weights (m) with mean one that give every bin of width 0.1 of [-1, 1] that occurs at a gap the same sum; zero is
    a bin of its own."""
    bins = np.where(values == 0, 20, np.minimum((values + 1) * 10, 19)).astype(int)
    _, index, counts = np.unique(np.stack([gap, bins]), axis=1, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[index.ravel()]
    return np.asarray(weights / weights.mean())


def _known(recording: Recording) -> tuple[Tensor, Tensor, Tensor]:
    """vectors, valid and progress of the frames whose progress is known."""
    if np.isnan(recording.progress).all():
        raise ValueError("no frame of the recording has a known progress; this world has no progress to learn.")
    return _rows(recording, recording.progress)


def _rows(recording: Recording, target: NDArray[np.floating]) -> tuple[Tensor, Tensor, Tensor]:
    """vectors, valid and target (n) of the frames whose target is a number."""
    known = ~np.isnan(target)
    part = recording.take(known)
    return torch.from_numpy(part.vectors), torch.from_numpy(part.valid), torch.from_numpy(target[known]).float()

"""What a predictor says of many states, or steps, at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_probes.recording import Goals, Recording
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import SlotTransition


@torch.inference_mode()
def predict(
    predictor: RewardPredictor, vectors: Tensor, valid: Tensor, batch_size: int = 4096, /, **fields: Tensor
) -> NDArray[np.float32]:
    """The reward of n rows: vectors (n K D), valid (n K), and by name whatever else of `SlotTransition` it reads,
    each (n ...) -> (n)."""
    predictor.eval()
    given = {"slots": vectors, "valid": valid, **fields}
    rows = range(0, len(vectors), batch_size)
    if not rows:  # episodes of one frame have no steps
        return np.zeros(0, np.float32)
    batches = ({name: value[start : start + batch_size] for name, value in given.items()} for start in rows)
    return torch.cat([predictor(SlotTransition(**batch)).reward for batch in batches]).cpu().numpy()


def predict_recording(
    predictor: RewardPredictor, recording: Recording, goals: Goals | None = None
) -> NDArray[np.float32]:
    """The potential of every frame (n); goals: one per frame, where it reads one.

    Raises:
        ValueError: a head that was fitted on another encoder's slots.
    """
    check_encoder(predictor, recording)
    fields = {} if goals is None else goals.fields(np.arange(len(recording)))
    return predict(predictor, torch.from_numpy(recording.vectors), torch.from_numpy(recording.valid), **fields)


def predict_steps(
    predictor: RewardPredictor, recording: Recording, goals: Goals | None = None
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    """The reward of every single step (m), and the frames of its s and of its s' (m). A predictor of single states is
    read at s'.

    Raises:
        ValueError: a head that was fitted on another encoder's slots.
    """
    check_encoder(predictor, recording)
    first, second = recording.pairs()
    vectors, valid = torch.from_numpy(recording.vectors), torch.from_numpy(recording.valid)
    fields: dict[str, Any] = {} if goals is None else goals.fields(second)
    if predictor.state_dependence == "state":
        return predict(predictor, vectors[second], valid[second], **fields), first, second
    fields |= {
        "next_slots": vectors[second],
        "next_valid": valid[second],
        "actions": torch.from_numpy(recording.action[second]).long(),
        "rewards": torch.from_numpy(recording.reward[second]),
        "terminated": torch.from_numpy(recording.terminated[second]),
    }
    return predict(predictor, vectors[first], valid[first], **fields), first, second


def check_encoder(predictor: RewardPredictor, recording: Recording) -> None:
    """Raises ValueError where a part of the predictor was fitted on another encoder's slots."""
    for part in predictor.modules():
        if isinstance(part, SlotHead):
            part.check_encoder(recording.fingerprint)


def order_leak(predictor: RewardPredictor, recording: Recording, goals: Goals | None = None, seed: int = 0) -> float:
    """How much of a potential hangs on the order of the slots: the root mean square change when every frame's slots
    are shuffled, over the standard deviation of the potential.

    0 for a function of sets (up to rounding); sqrt(2) where order decides everything; NaN for a constant.
    """
    orders = np.random.default_rng([seed, 2]).random(recording.valid.shape).argsort(1)
    vectors = np.take_along_axis(recording.vectors, orders[..., None], 1)
    valid = np.take_along_axis(recording.valid, orders, 1)
    fields = {} if goals is None else goals.fields(np.arange(len(recording)))
    before = predict_recording(predictor, recording, goals).astype(np.float64)
    after = predict(predictor, torch.from_numpy(vectors), torch.from_numpy(valid), **fields)
    spread = float(before.std())
    return float(np.sqrt(np.mean((after - before) ** 2))) / spread if spread else float("nan")

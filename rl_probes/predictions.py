"""What a predictor says of many states at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl_probes.recording import Recording
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.set_progress import ProgressHead
from rl_probes.rewards.transition import SlotTransition


@torch.inference_mode()
def predict(predictor: RewardPredictor, vectors: Tensor, valid: Tensor, batch_size: int = 4096) -> NDArray[np.float32]:
    """The potential of n states: vectors (n K D), valid (n K) -> (n)."""
    predictor.eval()
    parts = zip(vectors.split(batch_size), valid.split(batch_size), strict=True)
    return torch.cat([predictor(SlotTransition(*part)).reward for part in parts]).cpu().numpy()


def predict_recording(predictor: RewardPredictor, recording: Recording) -> NDArray[np.float32]:
    """The potential of every frame (n).

    Raises:
        ValueError: a progress head that was fitted on another encoder's slots.
    """
    if isinstance(predictor, ProgressHead):
        predictor.check_encoder(recording.fingerprint)
    return predict(predictor, torch.from_numpy(recording.vectors), torch.from_numpy(recording.valid))

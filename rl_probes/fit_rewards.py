"""Fit a progress head on recorded slots."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import mse_loss

from rl_probes.observation import Standardisation
from rl_probes.predictions import predict
from rl_probes.recording import Recording
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress, PooledProgress, ProgressHead
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
    if train.fingerprint != val.fingerprint:
        raise ValueError(f"train comes from the encoder {train.fingerprint}, val from {val.fingerprint}.")
    if np.intersect1d(train.episode, val.episode).size:
        raise ValueError("train and val share episodes; split by episode (Recording.split).")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build(*train.vectors.shape[1:])
    scale = Standardisation.of(train.vectors.astype(np.float32), train.valid)
    head.mean.copy_(torch.from_numpy(scale.mean))
    head.std.copy_(torch.from_numpy(scale.std))
    head.encoder_fingerprint = train.fingerprint

    vectors, valid, target = _known(train)
    val_vectors, val_valid, val_target = _known(val)
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(target) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    best_loss, best_state, waited = float("inf"), deepcopy(head.state_dict()), 0
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task("fitting progress", total=epochs)
        for _ in range(epochs):
            head.train()
            for rows in torch.randperm(len(target), generator=generator).split(batch_size):
                slots, mask = _shuffled(vectors[rows], valid[rows], generator)
                optimizer.zero_grad(set_to_none=True)
                mse_loss(head(SlotTransition(slots, mask)).reward, target[rows]).backward()
                optimizer.step()
                schedule.step()
            loss = float(np.mean((predict(head, val_vectors, val_valid) - val_target.numpy()) ** 2))
            bar.update(task, advance=1, description=f"fitting progress, validation RMSE {loss**0.5:.4f}")
            if loss < best_loss:
                best_loss, best_state, waited = loss, deepcopy(head.state_dict()), 0
            else:
                waited += 1
                if waited == patience:
                    break
    head.load_state_dict(best_state)
    return head.eval()


def _known(recording: Recording) -> tuple[Tensor, Tensor, Tensor]:
    """vectors, valid and progress of the frames whose progress is known."""
    known = ~np.isnan(recording.progress)
    if not known.any():
        raise ValueError("no frame of the recording has a known progress; this world has no progress to learn.")
    part = recording.take(known)
    return torch.from_numpy(part.vectors), torch.from_numpy(part.valid), torch.from_numpy(part.progress)


def _shuffled(vectors: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every row's slots in an order of its own: vectors (B K D), valid (B K)."""
    order = torch.rand(valid.shape, generator=generator).argsort(1)
    return vectors.gather(1, order[..., None].expand_as(vectors)), valid.gather(1, order)

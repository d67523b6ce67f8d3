"""What every fit on recorded slots shares: a fresh head with the scale of its training slots, and the loop."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from rl_probes.observation import Standardisation
from rl_probes.recording import Recording
from rl_probes.rewards.slot_head import SlotHead

Head = TypeVar("Head", bound=SlotHead)


def check_parts(train: Recording, val: Recording) -> None:
    """Raises ValueError where the two parts share an episode or come from different encoders."""
    if train.fingerprint != val.fingerprint:
        raise ValueError(f"train comes from the encoder {train.fingerprint}, val from {val.fingerprint}.")
    if np.intersect1d(train.episode, val.episode).size:
        raise ValueError("train and val share episodes; split by episode (Recording.split).")


def fresh_head(build: Callable[[int, int], Head], train: Recording, seed: int) -> Head:
    """`build`(num_slots, dim) with initial weights that are a function of `seed`, the mean and scale of the slots of
    `train`, and the fingerprint of their encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build(*train.vectors.shape[1:])
    scale = Standardisation.of(train.vectors.astype(np.float32), train.valid)
    head.mean.copy_(torch.from_numpy(scale.mean))
    head.std.copy_(torch.from_numpy(scale.std))
    head.encoder_fingerprint = train.fingerprint
    return head


def optimise(
    head: Head,
    count: int,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    generator: torch.Generator,
    *,
    what: str,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    weight_decay: float = 0.1,
    patience: int = 10,
) -> Head:
    """Minimise `loss`(rows) over `count` examples with AdamW and a one-cycle rate; returns the head of the epoch whose
    `validate`() is lowest, in eval mode. Stops when that has not improved for `patience` epochs.

    what: is fitted, for the bar.

    Raises:
        ValueError: no epoch, or a validation figure that never is a number.
    """
    if epochs < 1:
        raise ValueError(f"a fit needs at least one epoch, got {epochs}.")
    optimizer = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-count // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    best_loss, best_state, waited = float("inf"), None, 0
    with Progress(transient=True, disable=not Console().is_terminal) as bar:
        task = bar.add_task(f"fitting {what}", total=epochs)
        for _ in range(epochs):
            head.train()
            for rows in torch.randperm(count, generator=generator).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss(rows).backward()
                optimizer.step()
                schedule.step()
            head.eval()
            found = validate()
            bar.update(task, advance=1, description=f"fitting {what}, validation {found:.4g}")
            if found < best_loss:
                best_loss, best_state, waited = found, deepcopy(head.state_dict()), 0
            else:
                waited += 1
                if waited == patience:
                    break
    if best_state is None:
        raise ValueError(f"fitting {what} diverged: its validation figure was never a finite number.")
    head.load_state_dict(best_state)
    return head.eval()


def shuffled(vectors: Tensor, valid: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Every row's slots in an order of its own: vectors (B K D), valid (B K)."""
    order = torch.rand(valid.shape, generator=generator).argsort(1)
    return vectors.gather(1, order[..., None].expand_as(vectors)), valid.gather(1, order)

"""Cloning of what players did, each action weighted by the progress that followed it (RA-BC of SARM, 2025)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ocl.representations import ObjectEncoder
from rl_probes.envs.world import World
from rl_probes.fitting import check_parts, fresh_head, optimise, shuffled
from rl_probes.recording import Recording
from rl_probes.rewards.set_embedding import SetEmbedding
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.stages import cloning_weights
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class ActionHead(SlotHead):
    """Logits of a discrete action from the slots of s; as a predictor, the log-probability of the action taken.

    Extras: "logits" (B A).
    """

    requires = frozenset({"actions"})
    kind = "reward"
    state_dependence = "transition"
    bounds = (float("-inf"), 0.0)

    def __init__(self, dim: int, num_actions: int, width: int = 128) -> None:
        super().__init__(dim=dim, num_actions=num_actions, width=width)
        self.embedding = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, num_actions))

    def logits(self, slots: Tensor, valid: Tensor) -> Tensor:
        """slots (B K D), valid (B K) -> (B A)."""
        found: Tensor = self.rho(self.embedding(self.standardised(slots, valid), valid))
        return found

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        assert transition.actions is not None
        logits = self.logits(transition.slots, transition.valid)
        chosen = logits.log_softmax(1).gather(1, transition.actions.long()[:, None]).squeeze(1)
        return RewardOutput(reward=chosen, extras={"logits": logits})


def progress_gains(recording: Recording, progress: ArrayLike, horizon: int) -> NDArray[np.float64]:
    """How much progress (n, predicted or true) each step's action and those after it brought in `horizon` steps, or
    until the episode's last frame here: one per step of `Recording.pairs` (m)."""
    values = np.asarray(progress, np.float64)
    if values.shape != (len(recording),) or horizon < 1:
        raise ValueError(
            f"gains need progress ({len(recording)},) and a horizon from 1 on, got {values.shape}, {horizon}."
        )
    first, _ = recording.pairs()
    cuts = np.flatnonzero(recording.episode[1:] != recording.episode[:-1])
    last = np.append(cuts, len(recording) - 1)
    end = last[np.searchsorted(last, first)]
    return np.asarray(values[np.minimum(first + horizon, end)] - values[first])


def clone(
    train: Recording,
    val: Recording,
    num_actions: int,
    worth: Callable[[Recording], ArrayLike] | None = None,
    *,
    horizon: int = 4,
    threshold: float = 0.01,
    epochs: int = 20,
    seed: int = 0,
) -> ActionHead:
    """Fit the actions that were taken by cross-entropy, steps weighted by `cloning_weights` of what they gained in
    `horizon` steps, all alike where `worth` is None. Validation weighs them likewise.

    worth: the progress (n) of a recording's frames, such as a predictor's `predict_recording`.

    Raises:
        ValueError: the two parts share an episode or come from different encoders, an action that does not exist, a
            worth that is not finite, or under which no step counts.
    """
    check_parts(train, val)
    generator = torch.Generator().manual_seed(seed)
    head = fresh_head(lambda num_slots, dim: ActionHead(dim, num_actions), train, seed)
    slots, valid, actions = _steps(train, num_actions)
    val_slots, val_valid, val_actions = _steps(val, num_actions)
    weight, val_weight = (_weights(part, worth, horizon, threshold) for part in (train, val))

    def loss(rows: Tensor) -> Tensor:
        each = cross_entropy(
            head.logits(*shuffled(slots[rows], valid[rows], generator)), actions[rows], reduction="none"
        )
        found: Tensor = (each * weight[rows]).sum() / weight[rows].sum().clamp(min=1e-6)
        return found

    @torch.no_grad()
    def validate() -> float:
        each = cross_entropy(head.logits(val_slots, val_valid), val_actions, reduction="none")
        return float((each * val_weight).sum() / val_weight.sum())

    return optimise(head, len(actions), loss, validate, generator, what="actions", epochs=epochs)


class ClonedPlayer:
    """The most likely action of a fitted head in each environment of a world, as an expert for `Scripted` players.

    Raises:
        ValueError: another encoder than the head was fitted on.
    """

    def __init__(self, head: ActionHead, encoder: ObjectEncoder) -> None:
        head.check_encoder(encoder.fingerprint)
        self.head, self.encoder = head.eval(), encoder

    @torch.no_grad()
    def __call__(self, world: World) -> NDArray[np.int64]:
        slots = self.encoder(world.observe(self.encoder.requires))
        return np.asarray(self.head.logits(slots.vectors, slots.valid).argmax(1).numpy())


def _weights(
    recording: Recording, worth: Callable[[Recording], ArrayLike] | None, horizon: int, threshold: float
) -> Tensor:
    """(m) of the steps."""
    if worth is None:
        return torch.ones(len(recording.pairs()[0]))
    weights = cloning_weights(progress_gains(recording, worth(recording), horizon), threshold)
    if not weights.any():
        raise ValueError("no step of the recording gains any progress; there is nothing to clone.")
    return torch.from_numpy(weights).float()


def _steps(recording: Recording, num_actions: int) -> tuple[Tensor, Tensor, Tensor]:
    """Slots and mask of s and the action taken there, of every step."""
    first, second = recording.pairs()
    actions = recording.action[second]
    if not len(actions) or actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"cloning needs steps with actions in 0..{num_actions - 1}; leave out rewound episodes.")
    slots, valid = torch.from_numpy(recording.vectors[first]).float(), torch.from_numpy(recording.valid[first])
    return slots, valid, torch.from_numpy(actions).long()

"""What a reward predictor reads, one transition as sets of slots, and what it answers."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor


@dataclass
class SlotTransition:
    """A batch of B transitions s, a, s' as sets of slots. Everything but `slots` may be absent.

    slots, next_slots:  (B K D) objects of s and of s', each in its own order: slots are not tracked over time.
    valid, next_valid:  (B K) bool, False marks padding; all True where absent.
    goal_slots:         (B G D) objects the goal consists of; goal_valid (B G) bool; goal_weight (B G) >= 0, all one
                        where absent.
    actions:            (B,) int64, or (B A) float.
    rewards:            (B,) what the environment itself paid for the transition.
    terminated:         (B,) bool, s' ends the task; a time limit is not a termination.

    On construction slots become float32 and padding becomes zero, so that whatever it held (NaN included) can reach
    no result.

    Raises:
        ValueError: a field whose shape does not fit `slots`, a set without room for a slot, a mask without its slots, a
            valid slot that is not finite, or a goal weight that is negative or not finite.
        TypeError: a mask or `terminated` that is not bool.
    """

    slots: Tensor
    valid: Tensor | None = None
    next_slots: Tensor | None = None
    next_valid: Tensor | None = None
    goal_slots: Tensor | None = None
    goal_valid: Tensor | None = None
    goal_weight: Tensor | None = None
    actions: Tensor | None = None
    rewards: Tensor | None = None
    terminated: Tensor | None = None

    def __post_init__(self) -> None:
        if self.slots.ndim != 3:
            raise ValueError(f"slots must be (B, K, D), got {tuple(self.slots.shape)}.")
        self.slots, self.valid = self._set("slots", self.slots, self.valid)
        if self.next_slots is not None:
            self.next_slots, self.next_valid = self._set("next_slots", self.next_slots, self.next_valid)
        if self.goal_slots is not None:
            self.goal_slots, self.goal_valid = self._set("goal_slots", self.goal_slots, self.goal_valid)
            if self.goal_weight is None:
                self.goal_weight = torch.ones_like(self.goal_valid, dtype=torch.float32)
            if self.goal_weight.shape != self.goal_valid.shape:
                raise ValueError(
                    f"goal_weight must be {tuple(self.goal_valid.shape)}, got {tuple(self.goal_weight.shape)}."
                )
            self.goal_weight = torch.where(self.goal_valid, self.goal_weight.float(), 0.0)
        elif self.goal_valid is not None or self.goal_weight is not None:
            raise ValueError("goal_valid and goal_weight describe goal_slots, which are absent; give them too.")
        if self.next_slots is None and self.next_valid is not None:
            raise ValueError("next_valid describes next_slots, which are absent; give them too.")
        for name, most in (("actions", 2), ("rewards", 1), ("terminated", 1)):
            value = getattr(self, name)
            if value is not None and (not 1 <= value.ndim <= most or len(value) != len(self)):
                raise ValueError(f"{name} must have one entry per transition ({len(self)}), got {tuple(value.shape)}.")
        if self.terminated is not None and self.terminated.dtype != torch.bool:
            raise TypeError(f"terminated must be bool, got {self.terminated.dtype}.")
        self._check_values()

    def __len__(self) -> int:
        return int(self.slots.shape[0])

    def _set(self, name: str, slots: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, _, dim = self.slots.shape
        if slots.ndim != 3 or slots.shape[0] != batch or slots.shape[2] != dim:
            raise ValueError(f"{name} must be ({batch}, any, {dim}) to go with slots, got {tuple(slots.shape)}.")
        if not slots.shape[1]:
            raise ValueError(f"{name} must have room for at least one slot; a state without objects is all padding.")
        if valid is None:
            return slots.float(), torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
        if valid.shape != slots.shape[:2]:
            raise ValueError(f"the mask of {name} must be {tuple(slots.shape[:2])}, got {tuple(valid.shape)}.")
        if valid.dtype != torch.bool:
            raise TypeError(f"the mask of {name} must be bool, got {valid.dtype}.")
        return torch.where(valid[..., None], slots.float(), 0.0), valid

    def _check_values(self) -> None:
        """Padding is zero by now. A finite sum has finite terms, and is cheaper than looking at each of them."""
        given = [part for part in (self.slots, self.next_slots, self.goal_slots) if part is not None]
        if not isfinite(float(torch.stack([part.detach().sum() for part in given]).sum())) and not all(
            bool(part.isfinite().all()) for part in given
        ):
            raise ValueError("a valid slot holds NaN or infinity; check the encoder and its input.")
        if self.goal_weight is not None and not bool(((self.goal_weight >= 0) & self.goal_weight.isfinite()).all()):
            raise ValueError("goal_weight must be finite and not negative.")

    def advanced(self) -> Self:
        """The state s' in the place of s, so that a potential can be read there; nothing follows it.

        Raises:
            ValueError: no next_slots.
        """
        if self.next_slots is None:
            raise ValueError("advanced() needs next_slots, which this transition lacks.")
        then = copy(self)  # its fields are checked and free of padding: nothing to do again
        then.slots, then.valid, then.next_slots, then.next_valid = self.next_slots, self.next_valid, None, None
        then.actions = then.rewards = then.terminated = None
        return then


def valid_slots(transition: SlotTransition) -> Tensor:
    """Which slots of s are no padding, (B K) bool: a transition has the mask from its construction on."""
    assert transition.valid is not None
    return transition.valid


def next_state(transition: SlotTransition) -> tuple[Tensor, Tensor]:
    """The slots of s' (B K D) and their mask (B K).

    Raises:
        ValueError: no next_slots.
    """
    if transition.next_slots is None or transition.next_valid is None:
        raise ValueError("the transition lacks next_slots; pass them to SlotTransition.")
    return transition.next_slots, transition.next_valid


@dataclass
class RewardOutput:
    """What a reward predictor says about B transitions.

    reward:        (B,) float32.
    progress:      (B,) in [0, 1], None where the predictor has none.
    success_logit: (B,), None where the predictor has none.
    attribution:   (B K) share of each slot of s in the reward, zero for padding; None unless it was asked for or
                   costs nothing.
    extras:        whatever else it found. "empty" (B,) bool is always there: states without a single valid slot.
    """

    reward: Tensor
    progress: Tensor | None = None
    success_logit: Tensor | None = None
    attribution: Tensor | None = None
    extras: dict[str, Any] = field(default_factory=dict)

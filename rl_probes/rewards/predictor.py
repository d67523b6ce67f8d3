"""One interface for everything that turns slots into a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_probes.rewards.transition import RewardOutput, SlotTransition

Kind = Literal["reward", "potential", "bonus"]
StateDependence = Literal["state", "next_state", "transition"]


class RewardPredictor(nn.Module, ABC):
    """A map from a `SlotTransition` to a `RewardOutput` that treats slots as a set.

    What every implementation owes its callers:
    - the order of slots, of next slots and of goal slots changes nothing, each on its own;
    - padding (valid False) has neither influence nor attribution, whatever it holds;
    - a state without any valid slot gets the value within `bounds` nearest to zero, never NaN, and is flagged in
      `extras["empty"]`;
    - attribution is additive (it sums to the reward) or leave-one-out, and `attribution_kind` says which.

    requires:         fields of `SlotTransition` beyond `slots` that it reads.
    kind:             "potential" values a single state; "reward" pays for a transition; "bonus" depends on what has
                      been seen before.
    state_dependence: "state" reads s alone; "next_state" s' alone; "transition" more, and then comparing it with
                      another reward needs EPIC's canonicalisation (`rl_probes.distances`).
    bounds:           the interval that its rewards stay in.
    """

    requires: frozenset[str] = frozenset()
    kind: Kind
    state_dependence: StateDependence
    bounds: tuple[float, float]
    attribution_kind: Literal["additive", "leave_one_out"] = "leave_one_out"

    @abstractmethod
    def predict(self, transition: SlotTransition) -> RewardOutput:
        """The answer for checked input; rows whose set is empty may hold anything."""

    def forward(self, transition: SlotTransition, attribute: bool = False) -> RewardOutput:
        """`attribute` asks for per-slot shares, which cost K further predictions where they are leave-one-out.

        Raises:
            ValueError: the transition lacks a field that this predictor requires.
        """
        self.check(transition)
        empty = ~_valid(transition).any(1)
        output = self.predict(transition)
        neutral = min(max(0.0, self.bounds[0]), self.bounds[1])
        output.reward = output.reward.masked_fill(empty, neutral)
        if output.progress is not None:
            output.progress = output.progress.masked_fill(empty, 0.0)
        output.extras["empty"] = empty
        if output.attribution is None and attribute:
            output.attribution = self._leave_one_out(transition, output.reward)
        return output

    def check(self, transition: SlotTransition) -> None:
        """Raises ValueError where a required field is absent."""
        missing = sorted(name for name in self.requires if getattr(transition, name) is None)
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(missing)}, which the transition lacks; "
                f"pass {'it' if len(missing) == 1 else 'them'} to SlotTransition."
            )

    def _leave_one_out(self, transition: SlotTransition, reward: Tensor) -> Tensor:
        """(B,) reward -> (B K): by how much the reward falls when slot k is taken away, in one batch of B * K."""
        valid = _valid(transition)
        batch, count = valid.shape
        others = ~torch.eye(count, dtype=torch.bool, device=valid.device)
        kept = (valid[:, None, :] & others).reshape(batch * count, count)  # (B*K K)
        repeated: dict[str, Any] = {
            name: None if value is None else value.repeat_interleave(count, 0)
            for name, value in vars(transition).items()
        }
        without = self.forward(replace(transition, **{**repeated, "valid": kept})).reward.view(batch, count)
        return torch.where(valid, reward[:, None] - without, 0.0)


def _valid(transition: SlotTransition) -> Tensor:
    assert transition.valid is not None  # filled on construction
    return transition.valid

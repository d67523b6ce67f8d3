"""One interface for everything that turns slots into a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots

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
    stateful:         it remembers episodes (`observe`, `reset`); its batch is then the same environments every time.

    Prediction never changes a predictor: what it remembers or learns while it is used comes through `observe`.
    `rl_probes.rewards.contract` holds all this as checks that a predictor from anywhere can be put through.
    """

    requires: frozenset[str] = frozenset()
    kind: Kind
    state_dependence: StateDependence
    bounds: tuple[float, float]
    attribution_kind: Literal["additive", "leave_one_out"] = "leave_one_out"
    stateful: bool = False

    @abstractmethod
    def predict(self, transition: SlotTransition) -> RewardOutput:
        """The answer for checked input; rows whose set is empty may hold anything."""

    def forward(self, transition: SlotTransition, attribute: bool = False) -> RewardOutput:
        """`attribute` asks for per-slot shares, which cost K further predictions where they are leave-one-out.

        Raises:
            ValueError: the transition lacks a field that this predictor requires, or rewards that it reads are not
                finite.
        """
        self.check(transition)
        empty = ~valid_slots(transition).any(1)
        output = self.predict(transition)
        output.reward = output.reward.masked_fill(empty, self.neutral)
        if output.progress is not None:
            output.progress = output.progress.masked_fill(empty, 0.0)
        output.extras["empty"] = empty
        if output.attribution is None and attribute:
            output.attribution = self._leave_one_out(transition, output.reward)
        return output

    @property
    def neutral(self) -> float:
        """The value within `bounds` nearest to zero: what a state without a valid slot gets."""
        return min(max(0.0, self.bounds[0]), self.bounds[1])

    def observe(self, transition: SlotTransition) -> dict[str, float]:
        """These transitions have happened: remember them, or learn from them. Figures worth logging, by name."""
        return {}

    def reset(self, environments: Tensor | None = None) -> None:
        """Forget the episodes of these environments (B) bool, of all where None: new ones begin there."""

    def check(self, transition: SlotTransition) -> None:
        """Raises ValueError where a required field is absent, or rewards that it reads are not finite."""
        missing = sorted(name for name in self.requires if getattr(transition, name) is None)
        if missing:
            raise ValueError(
                f"{type(self).__name__} needs {', '.join(missing)}, which the transition lacks; "
                f"pass {'it' if len(missing) == 1 else 'them'} to SlotTransition."
            )
        if "rewards" in self.requires and not bool(torch.as_tensor(transition.rewards).isfinite().all()):
            raise ValueError(f"{type(self).__name__} got a reward of the environment that is NaN or infinite.")

    def _leave_one_out(self, transition: SlotTransition, reward: Tensor) -> Tensor:
        """(B,) reward -> (B K): by how much the reward falls when slot k is taken away, in one batch of B * K."""
        valid = valid_slots(transition)
        batch, count = valid.shape
        others = ~torch.eye(count, dtype=torch.bool, device=valid.device)
        if self.stateful:  # one row per environment: no room for K copies of each
            rows = [self.forward(replace(transition, valid=valid & kept)).reward for kept in others]
            return torch.where(valid, reward[:, None] - torch.stack(rows, 1), 0.0)
        kept = (valid[:, None, :] & others).reshape(batch * count, count)  # (B*K K)
        repeated: dict[str, Any] = {
            name: None if value is None else value.repeat_interleave(count, 0)
            for name, value in vars(transition).items()
        }
        without = self.forward(replace(transition, **{**repeated, "valid": kept})).reward.view(batch, count)
        return torch.where(valid, reward[:, None] - without, 0.0)


class ComposedPredictor(RewardPredictor):
    """A predictor made of others, which have already answered for states without a valid slot.

    Their answers are kept: replacing the result there would break sums that telescope over an episode. `parts` are the
    predictors it is made of; what they require, remember and learn is passed on.

    Raises:
        ValueError: no part.
    """

    def __init__(self, *parts: RewardPredictor) -> None:
        super().__init__()
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one predictor, got none.")
        self.parts = nn.ModuleList(parts)
        self.requires = frozenset().union(*(part.requires for part in parts))
        self.stateful = any(part.stateful for part in parts)

    def forward(self, transition: SlotTransition, attribute: bool = False) -> RewardOutput:
        self.check(transition)
        output = self.predict(transition)
        output.extras["empty"] = ~valid_slots(transition).any(1)
        if output.attribution is None and attribute:
            output.attribution = self._leave_one_out(transition, output.reward)
        return output

    def observe(self, transition: SlotTransition) -> dict[str, float]:
        figures: dict[str, float] = {}
        for part in self.components():
            figures |= part.observe(self.read_by(part, transition))
        return figures

    def reset(self, environments: Tensor | None = None) -> None:
        for part in self.components():
            part.reset(environments)

    def components(self) -> list[RewardPredictor]:
        return [part for part in self.parts if isinstance(part, RewardPredictor)]

    def read_by(self, part: RewardPredictor, transition: SlotTransition) -> SlotTransition:
        """What a part reads: a predictor of single states among predictors of transitions is read at s'."""
        if part.state_dependence == "state" and self.state_dependence != "state":
            return transition.advanced()
        return transition

"""Rewards to learn from, made of predictors: judged by progress, with a bonus, and one that invites hacking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.shaping import shape
from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots


class JudgedByProgress(ComposedPredictor):
    """r = gold + gamma * (1 - terminated) * Phi(s') - Phi(s), without the environment's reward.

    gold is 1 where the task terminated with Phi(s') >= `gold_at`, a predicted success; the shaping leaves the policy
    that is optimal for gold unchanged. This is the reward of Robo-Dopamine (2025) with two changes: the potential is
    zero where the task terminated, and gold is paid only there, since an environment that does not end where the
    predictor sees a success would pay it again at every step. That an episode ended, the environment says; whether it
    ended well, the predictor.

    Extras: "gold", "potential" and "next_potential" (B).

    Raises:
        ValueError: a predictor that is no potential in [0, 1], or gamma or gold_at outside (0, 1].
    """

    kind = "reward"
    state_dependence = "transition"

    def __init__(self, potential: RewardPredictor, gamma: float, gold_at: float = 0.95) -> None:
        super().__init__(potential)
        if potential.kind != "potential" or potential.bounds[0] < 0 or potential.bounds[1] > 1:
            raise ValueError(f"{type(potential).__name__} must be a potential in [0, 1], got kind {potential.kind!r} "
                             f"in {potential.bounds}.")  # fmt: skip
        if not (0.0 < gamma <= 1.0 and 0.0 < gold_at <= 1.0):
            raise ValueError(f"gamma and gold_at must be in (0, 1], got {gamma} and {gold_at}.")
        self.gamma, self.gold_at = gamma, gold_at
        self.requires |= {"next_slots", "terminated"}
        self.bounds = (-1.0, 1.0)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.terminated is not None
        (potential,) = self.components()
        now, then = potential(transition).reward, potential(transition.advanced()).reward
        gold = (transition.terminated & (then >= self.gold_at)).to(then.dtype)
        reward = shape(gold, now, then, transition.terminated, self.gamma)
        extras = {"gold": gold, "potential": now, "next_potential": then}
        return RewardOutput(reward=reward, progress=then, extras=extras)


class OncePerState(ComposedPredictor):
    """A frozen potential that is not computed again for the states it was last asked about.

    Shaping needs Phi(s) and Phi(s'), and all but the first s of an episode were the s' of the step before. Those that
    differ from the states of the last call are computed, in one batch with the s' that they lead to where the
    transition tells, since these are asked about next; the others are looked up. What was looked up is part of what
    the predictor remembers, so that a continued run computes the same batches.

    Raises:
        ValueError: a potential that reads more than one state, or remembers episodes.
    """

    def __init__(self, potential: RewardPredictor) -> None:
        super().__init__(potential)
        if potential.state_dependence != "state" or potential.requires or potential.stateful:
            raise ValueError(f"{type(potential).__name__} depends on more than the slots of one state.")
        self.kind, self.state_dependence, self.bounds = potential.kind, "state", potential.bounds
        self._last: tuple[Tensor, Tensor, Tensor] | None = None  # slots (B K D), valid (B K), value (B)

    @torch.no_grad()
    def predict(self, transition: SlotTransition) -> RewardOutput:
        slots, valid = transition.slots, valid_slots(transition)
        value, rows = self._known(slots, valid)
        following, present = transition.next_slots, transition.next_valid
        if following is None or present is None or following.shape != slots.shape:
            if len(rows):
                value = value.index_copy(0, rows, self._computed(SlotTransition(slots[rows], valid[rows])))
            self._last = (slots, valid, value)
        elif len(rows):
            both = torch.cat([slots[rows], following]), torch.cat([valid[rows], present])
            found = self._computed(SlotTransition(*both))
            value = value.index_copy(0, rows, found[: len(rows)])
            self._last = (following, present, found[len(rows) :])
        else:
            self._last = (following, present, self._computed(transition.advanced()))
        is_progress = self.bounds[0] >= 0.0 and self.bounds[1] <= 1.0
        return RewardOutput(reward=value, progress=value if is_progress else None)

    def _known(self, slots: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """The values (B) of the last call, and the rows of those that are not of these states."""
        if self._last is None or self._last[0].shape != slots.shape:
            return slots.new_zeros(len(slots)), torch.arange(len(slots), device=slots.device)
        before, present, value = self._last
        if (slots is before and valid is present) or (torch.equal(slots, before) and torch.equal(valid, present)):
            return value, torch.empty(0, dtype=torch.long, device=slots.device)
        return value, ((slots != before).flatten(1).any(1) | (valid != present).any(1)).nonzero().squeeze(1)

    def _computed(self, states: SlotTransition) -> Tensor:
        (potential,) = self.components()
        reward: Tensor = potential(states).reward
        return reward


class WithBonus(ComposedPredictor):
    """The environment's reward + coefficient * the bonus of s'.

    One sum and hence one value function for both, where random network distillation is published with two.

    Raises:
        ValueError: a coefficient that is negative or not finite.
    """

    kind = "reward"
    state_dependence = "transition"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, bonus: RewardPredictor, coefficient: float) -> None:
        super().__init__(bonus)
        if not 0.0 <= coefficient < float("inf"):
            raise ValueError(f"the coefficient of a bonus must be finite and not negative, got {coefficient}.")
        self.coefficient = coefficient
        self.requires |= {"next_slots", "rewards"}

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.rewards is not None
        (bonus,) = self.components()
        paid = bonus(self.read_by(bonus, transition)).reward
        return RewardOutput(reward=transition.rewards.float() + self.coefficient * paid, extras={"bonus": paid})


class AnyMovement(RewardPredictor):
    """`amount` where the chosen objects moved, towards their goal or away: a reward made to be hacked.

    What the dense pushing task of Yoon et al. (ICML 2023) pays its agent. The sum of the positions of the chosen slots
    is compared between s and s', so that slots need no tracking; movements that cancel in it are missed.

    position: the columns of a slot that hold its place. objects: columns that are all one for the chosen objects and
    not for others, such as the one-hot column of a colour. threshold: the least movement that counts.

    Raises:
        ValueError: no column, or an amount or threshold that is not positive.
    """

    requires = frozenset({"next_slots"})
    kind = "reward"
    state_dependence = "transition"

    def __init__(
        self, position: Sequence[int], objects: Sequence[int], amount: float = 0.01, threshold: float = 1e-4
    ) -> None:
        super().__init__()
        if not position or not objects or not (amount > 0 and threshold > 0):
            raise ValueError("AnyMovement needs columns of positions and of objects, a positive amount and threshold.")
        self.position, self.objects = list(position), list(objects)
        self.amount, self.threshold = amount, threshold
        self.bounds = (0.0, amount)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.next_slots is not None
        moved = (self._places(transition.next_slots) - self._places(transition.slots)).norm(dim=1)
        return RewardOutput(reward=torch.where(moved > self.threshold, self.amount, 0.0))

    def _places(self, slots: Tensor) -> Tensor:
        """Slots (B K D), zero where padding -> (B P), the sum over the chosen ones."""
        chosen = (slots[..., self.objects] > 0.5).all(-1)
        return (slots[..., self.position] * chosen[..., None]).sum(1)

"""A head that looks at two states at once and says how far the second is ahead (Robo-Dopamine, 2025)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from rl_probes.rewards.hops import backward_progress, forward_progress, fuse, fuse_consistent
from rl_probes.rewards.predictor import ComposedPredictor
from rl_probes.rewards.set_embedding import SetEmbedding, marked
from rl_probes.rewards.shaping import shape
from rl_probes.rewards.slot_head import SlotHead
from rl_probes.rewards.transition import RewardOutput, SlotTransition

CHANGE = 10.0
"""What changed between two states is shown so many times larger: it is small beside what they are."""


class HopReward(SlotHead):
    """H(s, s') = tanh rho(u, c (e(s') - e(s))) in [-1, 1].

    u embeds the union of both sets, each slot marked with the state it belongs to, so the head can hold an object
    against itself or against a goal. e embeds each state alone; what is the same in both cancels in the difference, in
    which small changes stand out. A difference of two potentials, each with its own error, drowns in noise where most
    steps change little. (The source has a network of images; these two inputs and c = `CHANGE` are ours.)
    """

    requires = frozenset({"next_slots"})
    kind = "reward"
    state_dependence = "transition"
    bounds = (-1.0, 1.0)

    def __init__(self, dim: int, width: int = 128) -> None:
        super().__init__(dim=dim, width=width)
        self.union = SetEmbedding(dim + 1, width)
        self.alone = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(4 * width, width), nn.ReLU(), nn.Linear(width, 1))

    def hop(self, slots: Tensor, valid: Tensor, next_slots: Tensor, next_valid: Tensor) -> Tensor:
        """Two sets (B K D), (B L D) with masks -> H (B); 0 where one of them is empty."""
        now, then = self.standardised(slots, valid), self.standardised(next_slots, next_valid)
        both = torch.cat([marked(now, -1.0), marked(then, 1.0)], 1)  # (B K+L D+1)
        union = self.union(both, torch.cat([valid, next_valid], 1))
        change = CHANGE * (self.alone(then, next_valid) - self.alone(now, valid))
        hop: Tensor = self.rho(torch.cat([union, change], 1)).squeeze(1).tanh()
        return hop.masked_fill(~(valid.any(1) & next_valid.any(1)), 0.0)

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.valid is not None
        assert transition.next_slots is not None
        assert transition.next_valid is not None
        hop = self.hop(transition.slots, transition.valid, transition.next_slots, transition.next_valid)
        return RewardOutput(reward=hop)


class HopShaping(ComposedPredictor):
    """r = gold + gamma * (1 - terminated) * Phi(s') - Phi(s), with Phi fused from hops along the episode.

    Phi(s') is the mean of three estimates: the previous one after H(s, s'), 0 after H(s_0, s'), 1 after H(goal, s');
    with `sharpness` it is `fuse_consistent` instead, against states unlike those that the head was trained on. Phi is 0
    at the start. gold is 1 where Phi(s') >= `gold_at`, a learned success: the shaping leaves the policy that is optimal
    for it unchanged, whether or not that is the task. The goal is a whole state, all of whose slots count alike.

    Unlike the source's formula, Phi is 0 where the task terminated, without which shaping changes the optimal policy.

    Remembers every environment's first slots and its Phi (`observe`, `reset`); before that, s is the start.
    Extras: "potential" and "next_potential" (B).

    Raises:
        ValueError: gamma outside (0, 1], or gold_at outside (0, 1].
    """

    kind = "reward"
    state_dependence = "transition"

    def __init__(self, head: HopReward, gamma: float, gold_at: float = 0.95, sharpness: float | None = None) -> None:
        super().__init__(head)
        if not (0.0 < gamma <= 1.0 and 0.0 < gold_at <= 1.0):
            raise ValueError(f"gamma and gold_at must be in (0, 1], got {gamma} and {gold_at}.")
        self.requires |= {"goal_slots", "terminated"}
        self.stateful = True
        self.gamma, self.gold_at = gamma, gold_at
        self.fuse = fuse if sharpness is None else partial(fuse_consistent, sharpness=sharpness)
        self.bounds = (-1.0, 1.0 + gamma)
        self._start: tuple[Tensor, Tensor] | None = None
        self._potential: Tensor | None = None  # (B), NaN where an episode is about to begin

    @property
    def head(self) -> HopReward:
        (head,) = self.parts
        assert isinstance(head, HopReward)
        return head

    def predict(self, transition: SlotTransition) -> RewardOutput:
        assert transition.next_slots is not None
        assert transition.next_valid is not None
        assert transition.goal_slots is not None
        assert transition.goal_valid is not None
        assert transition.terminated is not None
        following = (transition.next_slots, transition.next_valid)
        now = self._now(transition).nan_to_num(0.0)
        then = self.fuse(
            now,
            self.head(transition).reward,
            forward_progress(self.head.hop(*self._starts(transition), *following)),
            backward_progress(self.head.hop(transition.goal_slots, transition.goal_valid, *following)),
        )
        gold = (then >= self.gold_at).to(then.dtype)
        reward = shape(gold, now, then, transition.terminated, self.gamma)
        extras = {"potential": now, "next_potential": then}
        return RewardOutput(reward=reward, progress=then, extras=extras)

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        self._start = self._starts(transition)
        self._potential = self(transition).extras["next_potential"]
        return {"hop_progress": float(self._potential.mean())}

    def reset(self, environments: Tensor | None = None) -> None:
        if environments is None or self._potential is None:
            self._potential = self._start = None
        else:
            self._potential = self._potential.masked_fill(environments.to(self._potential.device), torch.nan)

    def _now(self, transition: SlotTransition) -> Tensor:
        """Phi(s) (B), NaN where s is the start."""
        if self._potential is None:
            return transition.slots.new_full((len(transition),), torch.nan)
        if len(self._potential) != len(transition):
            raise ValueError(
                f"HopShaping remembers {len(self._potential)} environments, got {len(transition)}; reset it first."
            )
        return self._potential

    def _starts(self, transition: SlotTransition) -> tuple[Tensor, Tensor]:
        """The first slots of every episode (B K D), with their mask."""
        assert transition.valid is not None
        fresh = self._now(transition).isnan()[:, None]
        if self._start is None:
            return transition.slots, transition.valid
        slots, valid = self._start
        return torch.where(fresh[..., None], transition.slots, slots), torch.where(fresh, transition.valid, valid)

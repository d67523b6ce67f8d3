"""Pay only what has never been reached before in the episode."""

from __future__ import annotations

import torch
from torch import Tensor

from rl_probes.rewards.predictor import ComposedPredictor, RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class BestSoFar(ComposedPredictor):
    """max(0, Phi(s') - best), best the largest potential of the episode up to s (Human2Sim2Robot, 2025).

    Over an episode this sums to the final best minus Phi of the first state: going back and forth earns nothing after
    the first time. For a distance, the potential is its negative. A state without a valid slot has no potential here:
    it earns nothing, sets no best and starts no episode.

    Remembers every environment's best (`observe`, `reset`); before that, s is the start. Extras: "best" (B), up to and
    including s', NaN where no state of the episode held a slot.

    Raises:
        ValueError: a predictor that is no potential; another number of environments than it remembers.
    """

    kind = "reward"
    state_dependence = "transition"

    def __init__(self, potential: RewardPredictor) -> None:
        super().__init__(potential)
        if potential.kind != "potential":
            raise ValueError(f"best so far needs a potential, got {type(potential).__name__} of kind "
                             f"{potential.kind!r}.")  # fmt: skip
        low, high = potential.bounds
        self.bounds = (0.0, high - low)
        self.requires |= {"next_slots"}
        self.stateful = True
        self._best: Tensor | None = None  # (B), NaN where no state was seen yet

    def predict(self, transition: SlotTransition) -> RewardOutput:
        now, then = self._potential(transition), self._potential(transition.advanced())
        if self._best is not None:
            if len(self._best) != len(transition):
                raise ValueError(
                    f"BestSoFar remembers {len(self._best)} environments, got {len(transition)}; reset it first."
                )
            now = torch.where(self._best.isnan(), now, self._best)
        reward = (then - now).clamp(min=0.0).nan_to_num(0.0)
        return RewardOutput(reward=reward, extras={"best": torch.fmax(now, then)})

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        best = self(transition).extras["best"]
        figures = super().observe(transition)
        self._best = best
        return figures

    def reset(self, environments: Tensor | None = None) -> None:
        super().reset(environments)
        if environments is None or self._best is None:
            self._best = None
        else:
            self._best = self._best.masked_fill(environments.to(self._best.device), torch.nan)

    def _potential(self, transition: SlotTransition) -> Tensor:
        """(B), NaN for states without a valid slot, whose stand-in value could be the best there is."""
        (potential,) = self.components()
        output: RewardOutput = potential(transition)
        return output.reward.masked_fill(output.extras["empty"], torch.nan)

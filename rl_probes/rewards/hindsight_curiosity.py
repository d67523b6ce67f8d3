"""Curiosity about what could have been predicted, not about noise (Curiosity in Hindsight, 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from rl_probes.rewards.novelty import ADAM, SetNetwork, own_generator, whitened
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.transition import RewardOutput, SlotTransition, next_state, valid_slots

SHARPNESS = 10.0
"""The critic's scores lie in +-this, so that a step of the generator is bounded too."""


def invariance(scores: Tensor) -> Tensor:
    """Scores (B B) of the critic for (s, a) in row i and the hindsight Z of column j -> mean over i of
    log(exp(g_ii) / mean over j of exp(g_ij)).

    At most log B; zero if Z tells nothing about (s, a). Maximised by the critic it bounds their mutual information
    from below.
    """
    own = scores.diagonal()
    return (own - scores.logsumexp(1)).mean() + torch.log(scores.new_tensor(float(len(scores))))


class HindsightCuriosity(RewardPredictor):
    """(1/d) * |f(s, a, Z) - g(s')|^2, where Z = G(s, a, s', noise) tells the reconstructor f what chance decided.

    g is a fixed random map of the slots of s' to d outputs, standardised by their moments so far. Plain curiosity pays
    for s' that no one can predict, such as noise on a screen, for ever; here Z may carry that, so it costs nothing. Z
    must not carry what could have been predicted: a critic tells (s, a) of its own row from those of others, and G is
    trained against it. f and G minimise the mean of |f - g|^2 / d plus `weight` times `invariance`, the critic
    maximises `invariance`.

    Our choices, where the source is known to us second-hand: g is random and fixed instead of a moving average of the
    encoder; the bonus is the error of reconstruction alone, taken at noise zero, so that it depends on no other
    transition and is the same when it is asked for again; G does not push `invariance` below zero, and the critic's
    scores are cosines times `SHARPNESS`, without which the two ran away from each other in our experiments; all sizes;
    the rate of the optimiser.

    dim:       D of the slots. num_actions: of a discrete action (B,), or the width of a continuous one (B A).
    weight:    lambda in the source.
    optimizer: makes the optimisers of f and G, and of the critic. Their state is not saved with the module.
    clip:      slots are standardised by the moments of all slots observed so far, then clipped to +-clip.

    States s or s' without a slot teach nothing. Its noise comes from a generator of its own, seeded by torch's global
    one when it is made. Divide by the running deviation of its returns with `ReturnScale`; of the source we know
    second-hand that it divides by a moving deviation of the bonuses themselves, which is nearer to `RunningScale`.

    Raises:
        ValueError: a negative weight, or a size or clip that is not positive; on a call, actions of another kind.
    """

    requires = frozenset({"next_slots", "actions"})
    kind = "bonus"
    state_dependence = "transition"
    bounds = (0.0, float("inf"))

    def __init__(
        self,
        dim: int,
        num_actions: int,
        weight: float = 1.0,
        width: int = 128,
        outputs: int = 64,
        hindsight: int = 32,
        noise: int = 32,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAM,
        clip: float = 5.0,
    ) -> None:
        super().__init__()
        if min(num_actions, width, outputs, hindsight, noise) < 1 or not (weight >= 0.0 and clip > 0.0):
            raise ValueError(f"sizes and clip must be positive and the weight not negative, got {num_actions}, "
                             f"{width}, {outputs}, {hindsight}, {noise}, {clip} and {weight}.")  # fmt: skip
        self.num_actions, self.noise = num_actions, noise
        self.weight, self.clip = weight, clip
        self.moments, self.target_moments = RunningMoments((dim,)), RunningMoments((outputs,))
        self.target = SetNetwork(dim, width, outputs).requires_grad_(False)
        self.state = SetNetwork(dim, width, width)
        self.generator = _mlp(width + num_actions + outputs + noise, width, hindsight)
        self.reconstructor = _mlp(width + num_actions + hindsight, width, outputs)
        self.critic_of_state = _mlp(width + num_actions, width, width)
        self.critic_of_hindsight = _mlp(hindsight, width, width)
        world = (self.state, self.generator, self.reconstructor)
        critics = (self.critic_of_state, self.critic_of_hindsight)
        self.optimizer = optimizer(list(chain.from_iterable(part.parameters() for part in world)))
        self._noise = own_generator()
        self.critic_optimizer = optimizer(list(chain.from_iterable(part.parameters() for part in critics)))

    def predict(self, transition: SlotTransition) -> RewardOutput:
        before, after = self._read(transition)
        hindsight = self.generator(torch.cat([before, after, after.new_zeros(len(after), self.noise)], 1))
        found = self.reconstructor(torch.cat([before, hindsight], 1))
        return RewardOutput(reward=(found - after).square().mean(1), extras={"hindsight": hindsight})

    def observe(self, transition: SlotTransition) -> dict[str, float]:
        """One step of f and G and one of the critic, on the transitions that hold slots on both sides."""
        next_slots, next_valid = next_state(transition)
        present = valid_slots(transition).any(1) & next_valid.any(1)
        if not present.any():
            return {}
        self.moments.add(torch.cat([transition.slots[valid_slots(transition)], next_slots[next_valid]]))
        self.target_moments.add(self._target(next_slots, next_valid)[present])
        with torch.enable_grad():
            before, after = (part[present] for part in self._read(transition))
            noise = torch.randn(len(after), self.noise, generator=self._noise).to(after)
            hindsight = self.generator(torch.cat([before, after, noise], 1))
            error = (self.reconstructor(torch.cat([before, hindsight], 1)) - after).square().mean()
            # The critic learns from (s, a) and Z as they are; G learns from the critic as it is.
            critic_loss = -invariance(self._scores(before.detach(), hindsight.detach()))
            leak = invariance(self._scores(before.detach(), hindsight))
            self.optimizer.zero_grad()
            # Information is never negative: below zero the critic is only behind, and G must not run away from it.
            (error + self.weight * leak.clamp(min=0.0)).backward()
            self.optimizer.step()
            self.critic_optimizer.zero_grad()  # also of what the line above left there
            critic_loss.backward()
            self.critic_optimizer.step()
        return {"hindsight_error": float(error.detach()), "hindsight_leak": float(leak.detach())}

    def _read(self, transition: SlotTransition) -> tuple[Tensor, Tensor]:
        """(s, a) as (B width+A), and g(s') (B outputs) at scale one."""
        assert transition.actions is not None
        slots = whitened(self.moments, transition.slots, valid_slots(transition), self.clip)
        next_slots, next_valid = next_state(transition)
        after = self.target_moments.standardise(self._target(next_slots, next_valid))
        state = self.state(slots, valid_slots(transition))
        return torch.cat([state, self._action(transition.actions)], 1), after

    def _target(self, next_slots: Tensor, next_valid: Tensor) -> Tensor:
        """g(s') (B outputs)."""
        target: Tensor = self.target(whitened(self.moments, next_slots, next_valid, self.clip), next_valid)
        return target

    def _action(self, actions: Tensor) -> Tensor:
        """(B,) int64 or (B A) -> (B A) float32."""
        if actions.ndim == 1 and not actions.is_floating_point():
            if not bool(((actions >= 0) & (actions < self.num_actions)).all()):
                raise ValueError(f"actions must lie in 0..{self.num_actions - 1}.")
            return one_hot(actions.long(), self.num_actions).float()
        if actions.ndim != 2 or actions.shape[1] != self.num_actions:
            raise ValueError(f"actions must be whole numbers (B,) or (B, {self.num_actions}), got "
                             f"{actions.dtype} {tuple(actions.shape)}.")  # fmt: skip
        return actions.float()

    def _scores(self, before: Tensor, hindsight: Tensor) -> Tensor:
        """(B B), row (s, a), column Z."""
        state, found = self.critic_of_state(before), self.critic_of_hindsight(hindsight)
        scores: Tensor = SHARPNESS * normalize(state, dim=1) @ normalize(found, dim=1).T
        return scores


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

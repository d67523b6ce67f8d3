"""A bonus for states that were seldom seen: how well a learner knows a random function of their slots."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.set_embedding import SetEmbedding
from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots

ADAM = partial(torch.optim.Adam, lr=1e-3, fused=True)


class SetNetwork(nn.Module):
    """Slots (B K D), zero where not valid (B K) -> (B outputs), whatever their order.

    Weights begin orthogonal times sqrt(2) and biases at zero, which keeps the size of features behind a ReLU: outputs
    are of the order of one and differ between states. Under torch's own beginning they are of size 0.08 and differ by
    0.02: what is left to learn about a new state is then nothing beside the noise of `RandomDistillation`.
    """

    def __init__(self, dim: int, width: int = 128, outputs: int = 64) -> None:
        super().__init__()
        self.embedding = SetEmbedding(dim, width)
        self.rho = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, outputs))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.orthogonal_(layer.weight, 2**0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, slots: Tensor, valid: Tensor) -> Tensor:
        output: Tensor = self.rho(self.embedding(slots, valid))
        return output


class RandomDistillation(RewardPredictor):
    """(1/d) * |f(s) - g(s)|^2 of a learned f and a fixed random g with d outputs.

    Every observation of s fits f to a fresh sample of N(g(s), sigma^2) (RDD, 2025): an f that averages its samples is
    off by sigma^2 / n on average after n visits, so the bonus counts. With sigma = 0 it is random network distillation
    (Burda et al., 2019), whose bonus vanishes as soon as f has learnt g. The default sigma = 1 is the source's only
    according to a secondary note; widths and the optimiser's rate are not the source's.

    target, learner: map (slots (B K D), valid (B K)) to (B d), such as a `SetNetwork` each; the target is frozen.
    optimizer:       makes the optimiser of the learner's parameters. The loss is half the squared error, summed over
                     outputs and averaged over states. Its state is not saved with the module.
    clip:            slots are standardised by the moments of all slots observed so far, then clipped to +-clip.
    batch:           states gathered for a step of the learner, which comes as soon as there are as many; 1 learns from
                     every observation by itself. A learner that follows at every step of the environments knows a
                     place before the policy has had a rollout to go there: rllte learns on batches of 256.

    Its noise comes from a generator of its own, seeded by torch's global one when it is made. Divide by the running
    deviation of its returns with `ReturnScale`.

    Raises:
        ValueError: a negative sigma, a clip that is not positive, or a batch below 1.
    """

    kind = "bonus"
    state_dependence = "state"
    bounds = (0.0, float("inf"))

    def __init__(
        self,
        dim: int,
        target: nn.Module,
        learner: nn.Module,
        sigma: float = 1.0,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = ADAM,
        clip: float = 5.0,
        batch: int = 1,
    ) -> None:
        super().__init__()
        if not (sigma >= 0.0 and clip > 0.0):
            raise ValueError(f"sigma must not be negative and clip must be positive, got {sigma} and {clip}.")
        if batch < 1:
            raise ValueError(f"the learner needs a batch of at least one state, got {batch}.")
        self.target, self.learner = target.requires_grad_(False), learner
        self.sigma, self.clip, self.batch = sigma, clip, batch
        self.moments = RunningMoments((dim,))
        self.optimizer = optimizer(learner.parameters())
        self._noise = own_generator()
        self._waiting: list[tuple[Tensor, Tensor]] = []  # slots (n K D), valid (n K) that nothing was learnt from yet

    def predict(self, transition: SlotTransition) -> RewardOutput:
        valid = valid_slots(transition)
        slots = whitened(self.moments, transition.slots, valid, self.clip)
        return RewardOutput(reward=(self.learner(slots, valid) - self.target(slots, valid)).square().mean(1))

    def observe(self, transition: SlotTransition) -> dict[str, float]:
        """One step of the learner on the states that hold a slot, once there are enough of them.

        Raises:
            ValueError: another number of slots than in the states that it waits with.
        """
        self._waiting.append((transition.slots.detach(), valid_slots(transition)))
        if len({slots.shape[1] for slots, _ in self._waiting}) > 1:
            raise ValueError(f"states of one batch need equally many slots, got {transition.slots.shape[1]}.")
        if sum(len(slots) for slots, _ in self._waiting) < self.batch:
            return {}
        slots, valid = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        present = valid.any(1)
        return self._learn(slots[present], valid[present]) if present.any() else {}

    def _learn(self, slots: Tensor, valid: Tensor) -> dict[str, float]:
        """(n K D), (n K), each with a valid slot."""
        self.moments.add(slots[valid])
        slots = whitened(self.moments, slots, valid, self.clip)
        mean = self.target(slots, valid)
        sample = mean + self.sigma * torch.randn(mean.shape, generator=self._noise).to(mean)
        with torch.enable_grad():
            loss = 0.5 * (self.learner(slots, valid) - sample).square().sum(1).mean()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"distillation_loss": float(loss.detach())}


def own_generator() -> torch.Generator:
    """Seeded by torch's global generator, of which nothing is drawn afterwards: whoever else draws from that, such as
    the policy that a bonus is paid to, draws the same with the bonus as without."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))


def whitened(moments: RunningMoments, slots: Tensor, valid: Tensor, clip: float) -> Tensor:
    """Slots (B K D) standardised by running moments and clipped to +-clip, zero where not valid (B K)."""
    return moments.standardise(slots).clamp(-clip, clip).masked_fill(~valid[..., None], 0.0)

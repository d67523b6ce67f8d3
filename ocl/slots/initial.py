"""First slots: where the iterations of a grouping module start."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocl.hooks import AfterStep
from ocl.shapes import Features, Hints


class InitialSlots(nn.Module):
    """What every kind of start has: K = `num_slots` by default, D = `dim`, and a draw that may be given.

    Starts are called with the tokens that the grouping will read, the number of slots, the draw and the weak labels of
    the images; each kind uses of these what it needs.
    """

    def __init__(self, num_slots: int, dim: int) -> None:
        super().__init__()
        if num_slots < 1 or dim < 2:
            raise ValueError(f"num_slots must be positive and dim at least 2, got {num_slots} and {dim}.")
        self.num_slots = num_slots
        self.dim = dim

    def count(self, num_slots: int | None) -> int:
        """K of a call: `num_slots`, or the default for None; starts of a fixed K refuse another."""
        if num_slots is not None and num_slots < 1:
            raise ValueError(f"num_slots must be positive, got {num_slots}.")
        return self.num_slots if num_slots is None else num_slots

    def draw(self, like: Tensor, features: Features, num_slots: int | None, noise: Tensor | None) -> Tensor:
        """Standard normal (B K D) of the type of `like`; or `noise` (K D) or (B K D), checked and expanded."""
        batch_size, count = len(features.tokens), self.count(num_slots)
        if noise is None:
            return torch.randn(batch_size, count, self.dim, device=like.device, dtype=like.dtype)
        if noise.shape not in ((count, self.dim), (batch_size, count, self.dim)):
            raise ValueError(
                f"noise must be (K, D) = ({count}, {self.dim}) or (B, K, D) with B = {batch_size}, "
                f"got {tuple(noise.shape)}."
            )
        return noise.to(like.dtype).expand(batch_size, count, self.dim)


class RandomSlots(InitialSlots):
    """Independent samples of one learned Gaussian: S0 = mu + exp(log_sigma) * eps, eps ~ N(0, I).

    mu and log_sigma (D) are shared by all slots, so K is free at every call and slots are exchangeable.
    Initialisation as in the official code: uniform with bound sqrt(6 / (1 + D)) (Locatello et al. 2020,
    arXiv 2006.15055).
    """

    def __init__(self, num_slots: int, dim: int) -> None:
        super().__init__(num_slots, dim)
        bound = (6 / (1 + dim)) ** 0.5
        self.mu = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.log_sigma = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D); `noise` (K D) or (B K D) replaces the draw of eps, which makes the start reproducible."""
        return self.mu + self.log_sigma.exp() * self.draw(self.mu, features, num_slots, noise)


class LearnedSlots(InitialSlots):
    """One learned vector per slot (K D), Xavier uniform: slots keep a fixed, meaningful order and K is fixed."""

    def __init__(self, num_slots: int, dim: int) -> None:
        super().__init__(num_slots, dim)
        self.slots = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_slots, dim)))

    def count(self, num_slots: int | None) -> int:
        if num_slots not in (None, self.num_slots):
            raise ValueError(
                f"learned initial slots are fixed at K = {self.num_slots}, got {num_slots}; use RandomSlots to vary K."
            )
        return self.num_slots

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D); learned starts use no `noise`."""
        return self.slots.expand(len(features.tokens), self.count(num_slots), self.dim)


class NoisyLearnedSlots(LearnedSlots, AfterStep):
    """Learned vectors with noise that fades in training: S0 = q0 + z sigma sg(q0), z ~ N(0, I).

    sigma falls by half a cosine from 1 to 0 over the first `noise_steps` optimiser steps; in eval mode it is 0. The
    gradient of S0 to q0 is the identity, noise or not. Made for `SlotAttention(gradient="bilevel")`, whose last
    iteration starts from sg(S) + S0 - sg(S0) (BO-QSA: Jia et al. 2023, arXiv 2210.08990).
    """

    step: Tensor

    def __init__(self, num_slots: int, dim: int, noise_steps: int = 30_000) -> None:
        super().__init__(num_slots, dim)
        if noise_steps < 1:
            raise ValueError(f"noise_steps must be at least 1, got {noise_steps}; use LearnedSlots for no noise.")
        self.noise_steps = noise_steps
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # saved: a resumed run goes on from here

    @property
    def sigma(self) -> Tensor:
        """() float32, a tensor on the module's device, so that no step waits for it."""
        progress = (self.step / self.noise_steps).clamp(max=1)
        return 0.5 * (1 + torch.cos(torch.pi * progress))

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D); `noise` (K D) or (B K D) replaces the draw of z in training, and is ignored in eval mode."""
        slots = super().forward(features, num_slots)
        if not self.training:
            return slots
        return slots + self.draw(slots, features, num_slots, noise) * self.sigma * slots.detach()

    def after_step(self) -> None:
        self.step += 1


class RandomPointSlots(InitialSlots):
    """Slots that start at random places: S0 = b + W r, r = 2 [x, y, 1 - x, 1 - y] - 1, (x, y) uniform over the image.

    The place goes through a linear layer of the same four ramps that position embeddings use, so competition is spatial
    from the first iteration on. Like `RandomSlots`, slots are exchangeable and K is free; unlike it, two slots rarely
    start alike, which shortens the plateau before slots bind. (Not a published start: the random-position half of
    Invariant Slot Attention, arXiv 2302.04973, without its relative coordinates.)
    """

    def __init__(self, num_slots: int, dim: int) -> None:
        super().__init__(num_slots, dim)
        self.place = nn.Linear(4, dim)
        nn.init.uniform_(self.place.weight, -1, 1)

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D); the places are the normal distribution function of the first two entries of `noise`."""
        places = torch.special.ndtr(self.draw(self.place.weight, features, num_slots, noise)[..., :2])
        slots: Tensor = self.place(torch.cat([places, 1 - places], dim=-1) * 2 - 1)
        return slots

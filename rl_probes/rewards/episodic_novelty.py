"""A bonus for states unlike those of the same episode: distances to the nearest states in its memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.transition import RewardOutput, SlotTransition, valid_slots


class EpisodicNovelty(RewardPredictor):
    """1 / (sqrt(sum over the k nearest remembered states of kernel(d)) + c), as in Never Give Up (2020).

    kernel(d) = epsilon / (max(d / m - cluster, 0) + epsilon), with d the squared distance of two embeddings and m the
    mean of the squared distances to the k nearest neighbours so far, in all environments. A state at the place of n
    remembered ones, all others far away, gets 1 / (sqrt(n) + c) up to n = k: the bonus counts visits of the episode.

    The first state of a memory has nothing to differ from and gets 0 (the source's formula would pay 1 / c). The
    source's cut of the sum at 8 is left out: k kernels cannot reach it at k = 10.

    embedding: maps (slots (B K D), valid (B K)) to (B E), such as a `SetNetwork`, which may stay at random; frozen. The
               source learns one to predict the action between two states, so that only what the agent controls counts.
               Slots come as they are: what has a large scale decides which states are near.
    capacity:  states remembered of an episode; more replace the oldest. The source has 30000, in memory on the device.
    neighbours, epsilon, cluster, c: as the source has them.

    Remembers every environment's episode (`observe`, `reset`), which is not saved with the module; m is. Divide by the
    running deviation of its returns with `ReturnScale`.

    Raises:
        ValueError: a setting that is not positive; another number of environments than it remembers.
    """

    kind = "bonus"
    state_dependence = "state"

    def __init__(
        self,
        embedding: nn.Module,
        capacity: int = 1000,
        neighbours: int = 10,
        epsilon: float = 1e-4,
        cluster: float = 0.008,
        c: float = 1e-3,
    ) -> None:
        super().__init__()
        if min(capacity, neighbours) < 1 or not min(epsilon, c) > 0 or not cluster >= 0:
            raise ValueError(f"capacity, neighbours, epsilon and c must be positive and cluster not negative, got "
                             f"{capacity}, {neighbours}, {epsilon}, {c} and {cluster}.")  # fmt: skip
        self.embedding = embedding.requires_grad_(False)
        self.capacity, self.neighbours = capacity, neighbours
        self.epsilon, self.cluster, self.c = epsilon, cluster, c
        self.bounds = (0.0, 1.0 / c)
        self.stateful = True
        self.distances = RunningMoments(())
        self._memory: Tensor | None = None  # (B capacity E)
        self._count: Tensor | None = None  # (B) states ever remembered of the episode
        self._ages: list[int] = []  # (B) at least the count, known without asking the device

    def predict(self, transition: SlotTransition) -> RewardOutput:
        nearest = self._nearest(self._embedded(transition), len(transition))  # (B k)
        known = nearest.isfinite()
        # Each state's own distances count towards its mean, so that the first of all are not measured by nothing.
        own = torch.where(known, nearest, 0.0).sum(1)
        seen = self.distances.count
        mean = (self.distances.mean * seen + own) / (seen + known.sum(1)).clamp(min=1)  # (B) float64
        scaled = nearest / mean.float().clamp(min=1e-30)[:, None]
        kernel = self.epsilon / ((scaled - self.cluster).clamp(min=0.0) + self.epsilon)  # 0 where nothing is remembered
        bonus = 1.0 / (kernel.sum(1).sqrt() + self.c)
        return RewardOutput(reward=torch.where(known.any(1), bonus, 0.0))

    @torch.no_grad()
    def observe(self, transition: SlotTransition) -> dict[str, float]:
        embedded = self._embedded(transition)
        nearest = self._nearest(embedded, len(transition))
        present = valid_slots(transition).any(1)
        self.distances.add(nearest[nearest.isfinite() & present[:, None]])
        if self._memory is None or self._count is None:
            self._memory = embedded.new_zeros(len(embedded), self.capacity, embedded.shape[1])
            self._count = torch.zeros(len(embedded), dtype=torch.long, device=embedded.device)
            self._ages = [0] * len(embedded)
        rows = torch.arange(len(embedded), device=embedded.device)
        place = self._count % self.capacity
        self._memory[rows, place] = torch.where(present[:, None], embedded, self._memory[rows, place])
        self._count = self._count + present
        self._ages = [age + 1 for age in self._ages]
        return {"episodic_neighbour_distance": float(self.distances.mean)}

    def reset(self, environments: Tensor | None = None) -> None:
        if environments is None or self._count is None:
            self._memory = self._count = None
        else:
            self._count = self._count.masked_fill(environments.to(self._count.device), 0)
            over = environments.tolist()
            self._ages = [0 if begins else age for age, begins in zip(self._ages, over, strict=True)]

    def _embedded(self, transition: SlotTransition) -> Tensor:
        embedded: Tensor = self.embedding(transition.slots, valid_slots(transition))
        return embedded

    def _nearest(self, embedded: Tensor, batch: int) -> Tensor:
        """(B E) -> squared distances (B k) to the nearest remembered states, infinite where there are fewer."""
        if self._memory is None or self._count is None:
            return embedded.new_full((batch, 1), torch.inf)
        if len(self._count) != batch:
            raise ValueError(f"EpisodicNovelty remembers {len(self._count)} environments, got {batch}; reset it first.")
        # Not by a matrix product, whose rounding would tell a state from itself.
        filled = min(max(self._ages), self.capacity)  # the largest number of places in use, or a little more
        memory = self._memory[:, :filled]
        distance = torch.cdist(embedded[:, None], memory, compute_mode="donot_use_mm_for_euclid_dist")[:, 0].square()
        used = torch.arange(filled, device=distance.device) < self._count[:, None]
        distance = distance.masked_fill(~used, torch.inf)
        return distance.topk(min(self.neighbours, filled), dim=1, largest=False).values

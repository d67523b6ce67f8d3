"""Learning-rate factors as functions of the optimiser step, for `torch.optim.lr_scheduler.LambdaLR`."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupHalving:
    """min(1, (s + 1) / warmup_steps) * 0.5 ^ (s / half_life), s from 0: the published schedule, which decays during
    warm-up too. Published, the warm-up is s / warmup_steps, whose first step moves nothing."""

    warmup_steps: int = 10_000
    half_life: int = 100_000

    def __call__(self, step: int) -> float:
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return float(warm * 0.5 ** (step / self.half_life))


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up, then half a cosine down to zero at `total_steps`."""

    total_steps: int
    warmup_steps: int = 0

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

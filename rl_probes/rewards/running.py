"""Mean and deviation of a stream, kept in buffers so that they are saved and loaded with the module."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Moments of values of one shape, merged batch by batch (Chan, Golub and LeVeque, 1983)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.count: Tensor
        self.mean: Tensor
        self.squares: Tensor
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def add(self, values: Tensor) -> None:
        """values (n, *shape); none changes nothing."""
        if not len(values):
            return
        values = values.double()
        mean, count = values.mean(0), self.count + len(values)
        offset = mean - self.mean
        self.squares += (values - mean).square().sum(0) + offset.square() * self.count * len(values) / count
        self.mean += offset * len(values) / count
        self.count.copy_(count)

    def std(self) -> Tensor:
        """Population deviation as float32; one before two values were seen, and where they never differ."""
        std = (self.squares / self.count.clamp(min=1)).sqrt().float()
        return torch.where((self.count < 2) | (std == 0), torch.ones_like(std), std)

    def standardise(self, values: Tensor) -> Tensor:
        return (values - self.mean.float()) / self.std()

"""Where a walk from a feature over the slots and back should end: F = B A (N N), by rows and never whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ocl.hooks import ReadsModel
from ocl.losses.cycle_targets import GroupingTokens, Target
from ocl.losses.neighbours import row_blocks, sum_over_alike
from ocl.losses.walks import EXCLUDED, Transitions, in_single
from ocl.shapes import Batch, Output


class Aim(nn.Module, ABC):
    """(`Transitions`, `Output`, `Batch`) -> (B N): for every feature the cost of where its walk ends."""

    @abstractmethod
    def forward(self, walk: Transitions, output: Output, batch: Batch) -> Tensor: ...


class Diagonal(Aim):
    """In the very same feature.

        -log F_jj                                without a second temperature: O(N K)
        -log (softmax over j' of F_jj' / tau2)_j  with it: at most 1 / tau2 below log N, never near zero

    Where features vary inside an object it pushes slots to split it; `PositiveSet` does not.
    """

    def __init__(self, second_temperature: float | None = None) -> None:
        super().__init__()
        if second_temperature is not None and second_temperature <= 0:
            raise ValueError(f"second_temperature must be positive, got {second_temperature}.")
        self.second_temperature = second_temperature

    def forward(self, walk: Transitions, output: Output, batch: Batch) -> Tensor:
        own = (walk.log_to_slots + walk.log_to_features).logsumexp(dim=1)  # (B N) log F_jj
        if self.second_temperature is None:
            return -own
        return _by_rows(_log_total, walk, self.second_temperature) - own.exp() / self.second_temperature


class _Similar(Aim, ReadsModel):
    """An aim that knows which features are alike: those whose targets have a cosine above the threshold."""

    def __init__(self, threshold: float, target: Target | None) -> None:
        super().__init__()
        self.threshold = threshold
        self.target = GroupingTokens() if target is None else target

    def attach(self, model: nn.Module) -> None:
        if isinstance(self.target, ReadsModel):
            self.target.attach(model)

    def directions(self, output: Output, batch: Batch) -> Tensor:
        """Unit target vectors (B N G)."""
        target = self.target(output, batch).detach()
        expected = output.tokens.tokens.shape[:2]
        if target.shape[:2] != expected:
            raise ValueError(
                f"{type(self.target).__name__} gives {tuple(target.shape)}, not {tuple(expected)} vectors."
            )
        return functional.normalize(in_single(target), dim=-1)


class PositiveSet(_Similar):
    """In any feature alike: -log sum of F_jj' over j' in N_j = {j} and {j' : cos(g_j, g_j') > threshold}.

    The sum is B (A M^T) with M the constant 0/1 matrix of N_j, built by blocks.

    Args:
        threshold: 0.8 is not the paper's, which was not found; at 1 and above only j itself is left.
        target: g; None: `GroupingTokens`.
    """

    def __init__(self, threshold: float = 0.8, target: Target | None = None) -> None:
        super().__init__(threshold, target)

    def forward(self, walk: Transitions, output: Output, batch: Batch) -> Tensor:
        reached = sum_over_alike(walk.to_features, self.directions(output, batch), self.threshold)  # (B K N)
        returned = (walk.to_slots * reached).sum(dim=1)
        # Dot products can underflow to 0, which has no logarithm.
        return -returned.clamp_min(torch.finfo(returned.dtype).tiny).log()


class SoftTarget(_Similar):
    """In alike features, each in its share: -sum over j' of T_jj' log F_jj'.

    T is the softmax of cos(g_j, g_j') / temperature over j' in N_j of `PositiveSet`.

    Args:
        threshold, temperature: not the paper's, which were not found.
        target: g; None: `GroupingTokens`.
    """

    def __init__(self, threshold: float = 0.8, temperature: float = 0.1, target: Target | None = None) -> None:
        super().__init__(threshold, target)
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, got {temperature}.")
        self.temperature = temperature

    def forward(self, walk: Transitions, output: Output, batch: Batch) -> Tensor:
        directions = self.directions(output, batch)
        return _by_rows(_cross_entropy, walk, directions, self.threshold, self.temperature)


def _by_rows(cost: Callable[..., Tensor], walk: Transitions, *arguments: object) -> Tensor:
    """(B N) from `cost`, which sees some rows of F at a time and is computed again in the backward pass."""
    to_features, to_slots = walk.to_features, walk.to_slots
    with torch.autocast(to_slots.device.type, enabled=False):
        parts = [
            checkpoint(cost, to_slots, to_features, rows, *arguments, use_reentrant=False, preserve_rng_state=False)
            for rows in row_blocks(to_slots)
        ]
    return torch.cat(parts, dim=1)


def _log_total(to_slots: Tensor, to_features: Tensor, rows: slice, temperature: float) -> Tensor:
    walked = to_slots[:, :, rows].mT @ to_features  # (B rows N)
    return (walked / temperature).logsumexp(dim=2)


def _cross_entropy(
    to_slots: Tensor, to_features: Tensor, rows: slice, directions: Tensor, threshold: float, temperature: float
) -> Tensor:
    cosine = directions[:, rows] @ directions.mT  # (B rows N)
    similar = cosine > threshold
    similar[:, :, rows].diagonal(dim1=1, dim2=2).fill_(True)
    target = (cosine / temperature).masked_fill(~similar, EXCLUDED).softmax(dim=2)
    walked = to_slots[:, :, rows].mT @ to_features
    return -(target * walked.clamp_min(torch.finfo(walked.dtype).tiny).log()).sum(dim=2)

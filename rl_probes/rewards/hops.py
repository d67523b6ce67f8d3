"""Progress as hops, the share of what is left that a step covers, and how estimates of it are fused (Robo-Dopamine,
2025)."""

from __future__ import annotations

import torch
from torch import Tensor


def encode_hop(first: Tensor, second: Tensor) -> Tensor:
    """Progress p and q in [0, 1] -> H in [-1, 1]: (q - p) / (1 - p) forwards, (q - p) / p backwards, 0 for p = q."""
    left = torch.where(second >= first, 1.0 - first, first)  # zero only where p = q
    return (second - first) / left.masked_fill(left == 0, 1.0)


def decode_hop(first: Tensor, hop: Tensor) -> Tensor:
    """Progress p in [0, 1] and H in [-1, 1] -> the progress after the hop, in [0, 1] again."""
    return (first + torch.where(hop >= 0, 1.0 - first, first) * hop).clamp(0.0, 1.0)


def forward_progress(hop: Tensor) -> Tensor:
    """Progress of s from the hop H(s_0, s): the start has progress 0, from where nothing leads back."""
    return hop.clamp(min=0.0)


def backward_progress(hop: Tensor) -> Tensor:
    """Progress of s from the hop H(goal, s): 1 + H, the goal has progress 1, beyond which nothing lies."""
    return 1.0 + hop.clamp(max=0.0)


def fuse(previous: Tensor, hop: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """The mean of three estimates of progress: the previous one after `hop`, from the start, and from the goal."""
    return (decode_hop(previous, hop) + forward + backward) / 3


def fuse_consistent(
    previous: Tensor, hop: Tensor, forward: Tensor, backward: Tensor, sharpness: float = 1.0, epsilon: float = 1e-6
) -> Tensor:
    """Progress that moves less where the two anchored estimates disagree, as they do off the training distribution.

    previous + w / 2 * (m - previous + step), with m the mean of both, step what `hop` adds to `previous`,
    w = exp(-sharpness * d ** 2) and d = abs(backward - forward) / (m + epsilon). `sharpness` is alpha in the source,
    which does not state its value: 1 is ours.
    """
    mean = (forward + backward) / 2
    disagreement = (backward - forward).abs() / (mean + epsilon)
    trust = torch.exp(-sharpness * disagreement**2)
    step = decode_hop(previous, hop) - previous
    return (previous + trust / 2 * (mean - previous + step)).clamp(0.0, 1.0)

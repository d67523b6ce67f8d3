"""Preferences between two fragments of behaviour (Bradley and Terry, 1952; Christiano et al., 2017).

    P(1 > 2) = epsilon / 2 + (1 - epsilon) * sigmoid(R_1 - R_2),

with R the (discounted) sum of a fragment's rewards, the difference clipped to +-50, and epsilon the share of labels
that are given at random. Among fragments of equal length a constant added to every reward changes nothing, so only
differences of a reward learned this way mean anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLIP = 50.0
"""Differences of return beyond this are as sure as can be; exp of more would overflow."""


def fragment_return(rewards: Tensor, gamma: float = 1.0) -> Tensor:
    """Rewards (... T) -> their discounted sum (...)."""
    steps = torch.arange(rewards.shape[-1], device=rewards.device)
    return (rewards * gamma**steps).sum(-1)


def preference_probability(difference: Tensor, noise: float = 0.0) -> Tensor:
    """R_1 - R_2 (...) -> the probability that the first is preferred (...), in [noise / 2, 1 - noise / 2].

    Raises:
        ValueError: noise outside [0, 1].
    """
    if not 0.0 <= noise <= 1.0:
        raise ValueError(f"noise is a share of labels in [0, 1], got {noise}.")
    return noise / 2 + (1 - noise) * difference.clamp(-CLIP, CLIP).sigmoid()


def preference_loss(difference: Tensor, label: Tensor, noise: float = 0.0) -> Tensor:
    """Cross-entropy of labels (n): 1 where the first was preferred, 0 the second, 0.5 neither.

    Raises:
        ValueError: a label outside [0, 1], or shapes that differ.
    """
    if difference.shape != label.shape or not bool(((label >= 0) & (label <= 1)).all()):
        raise ValueError(f"every preference needs a label in [0, 1], got {tuple(label.shape)} labels for "
                         f"{tuple(difference.shape)} differences.")  # fmt: skip
    # In double: at the clip, 1 - sigmoid is 2e-22, which float32 rounds to zero through 1 - p. By symmetry
    # P(2 > 1) = preference_probability(-difference), so nothing is subtracted from one.
    exact = difference.double()
    first, second = preference_probability(exact, noise), preference_probability(-exact, noise)
    return -(label * first.log() + (1 - label) * second.log()).mean().to(difference.dtype)


def synthetic_labels(difference: Tensor, temperature: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
    """Labels (n) that a judge who sees the true R_1 - R_2 (n) would give.

    Temperature 0: the better one, 0.5 on a tie. Above: drawn with probability sigmoid(difference / temperature).

    Raises:
        ValueError: a negative temperature.
    """
    if temperature < 0:
        raise ValueError(f"the temperature must not be negative, got {temperature}.")
    if temperature == 0:
        return (difference.sign() + 1) / 2
    return torch.bernoulli((difference / temperature).sigmoid(), generator=generator)


def most_uncertain(differences: Tensor, count: int, noise: float = 0.0) -> Tensor:
    """Which pairs to ask about next: differences (E n) of E ensemble members -> indices (count) of the pairs on whose
    preference the members disagree most, by the variance of its probability, most first.

    Raises:
        ValueError: fewer than two members, or fewer pairs than `count`.
    """
    if differences.ndim != 2 or len(differences) < 2 or differences.shape[1] < count:
        raise ValueError(
            f"asking about {count} pairs needs differences (E >= 2, n >= {count}), got {tuple(differences.shape)}."
        )
    return preference_probability(differences, noise).var(0).topk(count).indices

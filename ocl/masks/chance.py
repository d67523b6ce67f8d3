"""What selecting among K segments scores when the classifier knows nothing: no selection with labels without it."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST_DRAW = 2**22  # logits at a time


def any_correct_chance(counts: Tensor, classes: int) -> float:
    """Chance that some segment is classified right if each is right with probability 1 / C, independently: the mean
    over images of 1 - (1 - 1 / C)^K. It is also the chance of class-aided selection for C = 2, 1 - 2^-K.

    Args:
        counts: (B) integer, K of each image: its valid segments.
        classes: C.

    Raises:
        ValueError: no image, an image without a segment, or fewer than two classes.
    """
    _check(counts, classes)
    return float((1 - (1 - 1 / classes) ** counts.double()).mean())


def class_aided_chance(
    counts: Tensor, classes: int, *, logit_scale: float = 3.0, draws: int = 100_000, seed: int = 0
) -> float:
    """Accuracy of class-aided selection on random logits, by simulation.

    Each of the K segments has C logits from a normal distribution of standard deviation `logit_scale`, independently;
    the segment in which the true class is most probable is taken and classified. With two classes the answer is
    `any_correct_chance`; with more it is lower and rises a little with the scale (C 9, K 10: 0.66 at 1, 0.69 at 3, 0.70
    at 10). The paper states no chance level, so the default is no choice of its. Segments of one image are not
    independent, so a classifier that knows nothing of the foreground may well score less.

    Args:
        counts: (B) integer, K of each image: its valid segments.
        classes: C.
        logit_scale: standard deviation of the logits.
        draws: segments simulated; the standard error is about 0.5 sqrt(K / draws) at most.
        seed: of the generator, which is always the CPU's.

    Raises:
        ValueError: see `any_correct_chance`.
    """
    _check(counts, classes)
    right = _right_by_rank(classes, logit_scale, draws, torch.Generator().manual_seed(seed)).double()
    # One pool of segments serves every K: the one of rank r among n is the best of K draws from the pool with
    # probability (r / n)^K - ((r - 1) / n)^K.
    rank = torch.arange(draws + 1, dtype=torch.float64) / draws
    segments, images = counts.cpu().unique(return_counts=True)
    total = sum(int(n) * float((rank ** int(k)).diff() @ right) for k, n in zip(segments, images, strict=True))
    return total / len(counts)


def _right_by_rank(classes: int, scale: float, draws: int, generator: torch.Generator) -> Tensor:
    """(draws) bool: is the true class the most probable one, in ascending order of its probability?"""
    probability, right = torch.empty(draws), torch.empty(draws, dtype=torch.bool)
    for start in range(0, draws, step := max(LARGEST_DRAW // classes, 1)):
        part = slice(start, min(start + step, draws))
        logits = scale * torch.randn(part.stop - start, classes, generator=generator)
        probability[part] = logits.log_softmax(-1)[:, 0]  # by symmetry the true class may be 0
        right[part] = logits.argmax(-1) == 0
    return right[probability.argsort()]


def _check(counts: Tensor, classes: int) -> None:
    if counts.ndim != 1 or counts.numel() == 0 or counts.is_floating_point() or int(counts.min()) < 1:
        raise ValueError(f"counts must be (B) positive integers, segments per image, got {counts.tolist()}.")
    if classes < 2:
        raise ValueError(f"a chance level needs at least two classes, got {classes}.")

"""From how surely pairs of patches show one object to the objects: groups of patches, without training."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn


class PatchGroups(nn.Module, ABC):
    """Groups the patches of each image; the same for the same input.

    num_groups: K, the most groups of an image.
    """

    def __init__(self, num_groups: int) -> None:
        super().__init__()
        if num_groups < 1:
            raise ValueError(f"num_groups must be at least 1, got {num_groups}.")
        self.num_groups = num_groups

    @abstractmethod
    def forward(self, same: Tensor) -> Tensor:
        """Probabilities (B n n) that two patches show one object -> group of every patch (B n) int64 in 0..K - 1, the
        largest group first; -1 where a patch is in none.

        Raises:
            ValueError: not (B n n), not in [0, 1], or fewer patches than groups to find.
        """


class SpectralGroups(PatchGroups):
    """Normalised spectral clustering (Ng, Jordan and Weiss, NeurIPS 2001): every patch is in a group.

    The eigenvectors of D^-1/2 A D^-1/2 with the k largest eigenvalues, rows scaled to length one, by k-means (its
    starts drawn from `seed`, the same for every image). A patch surely belongs to itself, so no degree is 0.

    Args:
        num_groups: K.
        fixed: always K groups. Otherwise k is where the sorted eigenvalues fall most, 1 <= k <= K (the eigengap), which
            finds fewer groups than there are where pairs of different objects are far from sure: their probabilities
            join the groups, and small groups are lost first.
        seed: of k-means.

    Raises:
        ValueError: fewer than one group.
    """

    def __init__(self, num_groups: int, fixed: bool = False, seed: int = 0) -> None:
        super().__init__(num_groups)
        self.fixed, self.seed = fixed, seed

    @torch.no_grad()
    def forward(self, same: Tensor) -> Tensor:
        same = _checked(same)
        patches = same.shape[-1]
        if patches <= self.num_groups:
            raise ValueError(f"{self.num_groups} groups need more patches than that, got {patches}.")
        identity = torch.eye(patches, dtype=torch.bool, device=same.device)
        affinity = same.double().masked_fill(identity, 1)
        scale = affinity.sum(dim=-1).rsqrt()
        values, vectors = torch.linalg.eigh(scale[:, :, None] * affinity * scale[:, None])  # ascending
        values, vectors = values.flip(-1), vectors.flip(-1)
        falls = values[:, : self.num_groups] - values[:, 1 : self.num_groups + 1]  # (B K)
        counts = [self.num_groups] * len(same) if self.fixed else (falls.argmax(dim=1) + 1).tolist()
        rows = [self._group(image[:, :count]) for image, count in zip(vectors.cpu().numpy(), counts, strict=True)]
        return by_size(torch.from_numpy(np.stack(rows)).to(same.device), self.num_groups)

    def _group(self, vectors: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        """(n k) eigenvectors -> (n) groups."""
        count = vectors.shape[1]
        if count == 1:
            return np.zeros(len(vectors), dtype=np.int64)
        directions = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        from sklearn.cluster import KMeans  # takes seconds to import, in every process that reads slots

        found: np.ndarray = KMeans(count, n_init=10, random_state=self.seed).fit_predict(directions)  # type: ignore[type-arg]
        return found.astype(np.int64)


class ConnectedGroups(PatchGroups):
    """Patches that are joined by a chain of pairs above a threshold; the K largest groups of at least `least` patches.

    Args:
        num_groups: K.
        threshold: on the probability, in [0, 1).
        least: patches of the smallest group that is kept.

    Raises:
        ValueError: fewer than one group or patch, or a threshold out of range.
    """

    def __init__(self, num_groups: int, threshold: float = 0.5, least: int = 1) -> None:
        super().__init__(num_groups)
        if not 0 <= threshold < 1 or least < 1:
            raise ValueError(f"threshold must be in [0, 1) and least at least 1, got {threshold} and {least}.")
        self.threshold, self.least = threshold, least

    def forward(self, same: Tensor) -> Tensor:
        joined = (_checked(same) > self.threshold).cpu().numpy()
        rows = [connected_components(image, directed=False)[1].astype(np.int64) for image in joined]
        return by_size(torch.from_numpy(np.stack(rows)).to(same.device), self.num_groups, self.least)


def by_size(groups: Tensor, most: int, least: int = 1) -> Tensor:
    """Any numbers of groups (B n) from 0 -> renumbered with the largest first; -1 past `most` and for groups of fewer
    than `least` patches. Among groups of one size, the one with the lower number comes first.
    """
    counts = torch.zeros(len(groups), int(groups.max()) + 1, dtype=torch.long, device=groups.device)
    counts.scatter_add_(1, groups, torch.ones_like(groups))
    place = counts.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    place = place.masked_fill((place >= most) | (counts < least), -1)
    return place.gather(1, groups)


def _checked(same: Tensor) -> Tensor:
    """Raises ValueError unless these are probabilities of pairs."""
    if same.ndim != 3 or same.shape[1] != same.shape[2]:
        raise ValueError(f"probabilities of pairs must be (B, n, n), got {tuple(same.shape)}.")
    if not ((same >= 0) & (same <= 1)).all():  # NaN too
        raise ValueError("probabilities of pairs must lie in [0, 1]; apply the sigmoid to logits.")
    return same

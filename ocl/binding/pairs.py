"""Which patches are compared, and which pairs of them count."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ocl.binding.patches import PairRule, Patches, distinct_pairs
from ocl.shapes import IGNORE


def sample_patches(labels: Tensor, count: int, images: Sequence[int], seed: int = 0) -> Tensor:
    """Draw n = `count` different patches of every image, uniformly among those with a label, in raster order.

    The draw is a function of the seed, the number of the image and which patches have labels, so that a test set is
    the same in every epoch and for every model with the same grid. Patches without a label are drawn only where the
    others do not suffice; no pair with them counts.

    Args:
        labels: (B N) int64, `IGNORE` where unknown.
        count: n, at most N.
        images: the number of each of the B images in its data set.
        seed: of the draw.

    Returns:
        (B n) int64, places of patches in raster order, rising.

    Raises:
        ValueError: more patches than there are, or other numbers of images.
    """
    batch, total = labels.shape
    if not 1 <= count <= total:
        raise ValueError(f"can draw 1 to {total} patches of an image, got {count}.")
    if len(images) != batch:
        raise ValueError(f"sample_patches needs the numbers of {batch} images, got {len(images)}.")
    draws = np.stack([np.random.default_rng([seed, int(image)]).random(total) for image in images])
    keys = torch.from_numpy(draws).to(labels.device)
    order = (keys + (labels == IGNORE)).argsort(dim=1)  # unlabelled patches come last
    return order[:, :count].sort(dim=1).values


def places_of(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(... n) places in raster order -> (... n 2) float32 centres (x, y), in patches from the top left corner."""
    columns = grid[1]
    return torch.stack([patches % columns, patches // columns], dim=-1) + 0.5


def distances(patches: Patches) -> Tensor:
    """(B n n) float32: between centres, in patches.

    Raises:
        ValueError: patches without places.
    """
    if patches.places is None:
        raise ValueError("these patches have no places, so no distances; give them their (x, y) in patches.")
    between: Tensor = patches.places[:, :, None] - patches.places[:, None]
    distance: Tensor = torch.linalg.vector_norm(between, dim=-1)
    return distance


def distance_bands(patches: Patches, edges: Sequence[float]) -> Tensor:
    """(B n n) int64: band i holds the distances from edges[i] to below edges[i + 1], in patches; -1 for the others.

    Raises:
        ValueError: fewer than two edges, or not rising.
    """
    if len(edges) < 2 or any(after <= before for before, after in pairwise(edges)):
        raise ValueError(f"edges must be at least two rising distances in patches, got {list(edges)}.")
    distance = distances(patches)
    bounds = torch.tensor(list(edges), dtype=distance.dtype, device=distance.device)
    band = torch.bucketize(distance, bounds, right=True) - 1
    return band.masked_fill(band == len(edges) - 1, -1)


def pairs_between(least: float, below: float) -> PairRule:
    """Counts distinct pairs at a distance of at least `least` and below `below` patches.

    Raises:
        ValueError: an empty range.
    """
    if not 0 <= least < below:
        raise ValueError(f"distances must be 0 <= least < below, got {least} and {below}.")

    def rule(patches: Patches) -> Tensor:
        distance = distances(patches)
        return distinct_pairs(patches) & (distance >= least) & (distance < below)

    return rule


def same_class_pairs(patches: Patches) -> Tensor:
    """(B n n) bool: distinct pairs of one class, of one object or of two. Unknown classes have none.

    Raises:
        ValueError: patches without classes.
    """
    if patches.classes is None:
        raise ValueError("these patches have no classes, so no pairs of one class; give each its object's class.")
    alike = patches.classes[:, :, None] == patches.classes[:, None]
    return distinct_pairs(patches) & alike & (patches.classes != IGNORE)[:, :, None]


def hard_pairs(patches: Patches) -> Tensor:
    """(B n n) bool: same class and different object, which no knowledge of classes can tell from one object."""
    return same_class_pairs(patches) & ~patches.same

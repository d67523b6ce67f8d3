"""How slots share an image, whatever the truth: fragments, stray pixels, idle slots and duplicates.

Maps are (B K h w) in [0, 1] and sum to one over K: a grouping's attention or a decoder's masks.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from ocl.metrics.image_mean import PerImage
from ocl.metrics.labels import label_map

DUPLICATE_COSINE = 0.9


def components_per_slot(labels: Tensor) -> PerImage:
    """Mean number of 4-connected regions of a slot that wins at least one pixel: 1 where every segment is whole.

    labels: (B h w) integer; pixels labelled -1 belong to no slot.
    """
    images, height, width = labels.shape
    values = labels.cpu().numpy()
    place = np.arange(values.size).reshape(values.shape)
    right, down = values[:, :, 1:] == values[:, :, :-1], values[:, 1:] == values[:, :-1]
    start = np.concatenate([place[:, :, :-1][right], place[:, :-1][down]])
    end = np.concatenate([place[:, :, 1:][right], place[:, 1:][down]])
    graph = coo_array((np.ones(len(start), dtype=bool), (start, end)), shape=(values.size, values.size))
    component = connected_components(graph, directed=False)[1]
    first = np.unique(component, return_index=True)[1]  # one pixel of every region
    first = first[values.reshape(-1)[first] >= 0]
    image, slot = first // (height * width), values.reshape(-1)[first]
    regions = np.bincount(image, minlength=images)
    slots = np.bincount(np.unique(np.stack([image, slot]), axis=1)[0], minlength=images)
    return _per_image(torch.from_numpy(regions / np.maximum(slots, 1)), torch.from_numpy(slots > 0), labels)


def salt_and_pepper(labels: Tensor) -> PerImage:
    """Share of pixels whose label is outnumbered by another one in their 3 x 3 neighbourhood.

    The neighbourhood holds the pixel itself and ends at the border; a tie is no stray. A straight edge costs nothing,
    the corner of a rectangle one pixel (4 of its own against 5).

    labels: (B h w) integer from -1.
    """
    ones = functional.one_hot(labels.long() + 1).movedim(-1, 1).float()  # (B K+1 h w)
    counts = functional.avg_pool2d(ones, 3, stride=1, padding=1, divisor_override=1)
    own = (counts * ones).sum(1)
    strays = (counts.amax(1) > own + 0.5).double().mean((1, 2))
    return _per_image(strays, torch.ones_like(strays, dtype=torch.bool), labels)


def active_slots(maps: Tensor, valid: Tensor | None = None) -> PerImage:
    """Number of slots whose mean over the image exceeds 1 / (2 K), half of an even share.

    valid: (B K) bool; the others are neither counted nor part of K, as in the walks of `ocl.losses.walks`.
    """
    slots = torch.ones(maps.shape[:2], dtype=torch.bool, device=maps.device) if valid is None else valid
    active = slots & (maps.double().mean((2, 3)) > 0.5 / slots.sum(1, keepdim=True))
    return PerImage(active.sum(1).double(), torch.ones(len(maps), dtype=torch.bool, device=maps.device))


def duplicate_pairs(maps: Tensor, valid: Tensor | None = None) -> PerImage:
    """Share of slot pairs whose maps have a cosine above 0.9. Images with fewer than two slots do not count.

    valid: (B K) bool; pairs with an invalid slot are left out.
    """
    directions = functional.normalize(maps.double().flatten(2), dim=-1)
    cosine = directions @ directions.mT  # (B K K)
    slots = torch.ones(maps.shape[:2], dtype=torch.bool, device=maps.device) if valid is None else valid
    pairs = (slots[:, :, None] & slots[:, None, :]).triu(diagonal=1)
    number = pairs.sum((1, 2))
    duplicates = ((cosine > DUPLICATE_COSINE) & pairs).sum((1, 2))
    return PerImage(duplicates.double() / number.clamp(min=1), number > 0)


def slot_map_measures(maps: Tensor, valid: Tensor | None = None) -> dict[str, PerImage]:
    """The four measures by name, at the resolution of the maps; labels are the argmax over slots."""
    labels = label_map(maps, (maps.shape[-2], maps.shape[-1]), valid)
    return {
        "components": components_per_slot(labels),
        "salt_and_pepper": salt_and_pepper(labels),
        "active_slots": active_slots(maps, valid),
        "duplicate_pairs": duplicate_pairs(maps, valid),
    }


SLOT_MAP_MEASURES = ("components", "salt_and_pepper", "active_slots", "duplicate_pairs")


def _per_image(values: Tensor, counted: Tensor, like: Tensor) -> PerImage:
    return PerImage(values.double().to(like.device), counted.to(like.device))

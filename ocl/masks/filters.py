"""Filters of masks: which segments of an image are worth encoding (the published filters of OCCAM, arXiv 2504.07092).

A filter adds and moves no mask: what it drops is no longer valid. Soft masks are judged where they are at least 0.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ocl.masks.base import Masks


class Filter(ABC):
    """Drops masks by a rule."""

    @abstractmethod
    def keeps(self, masks: Masks) -> Tensor:
        """(B K) bool: the masks that stay; what is said about masks that are not valid does not count."""

    def __call__(self, masks: Masks) -> Masks:
        return _only(masks, masks.valid & self.keeps(masks))


class MinimumArea(Filter):
    """Drops masks smaller than a share of the image."""

    def __init__(self, share: float = 0.001) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"MinimumArea: share of the image must be in [0, 1], got {share}.")
        self.share = share

    def keeps(self, masks: Masks) -> Tensor:
        height, width = masks.masks.shape[-2:]
        return _area(masks).double() / (height * width) >= self.share  # correctly rounded: a tie is a tie


class NotBackground(Filter):
    """Drops masks that hold at least `probes` of eight pixels: the image's corners and the middles of its edges."""

    def __init__(self, probes: int = 6) -> None:
        if not 1 <= probes <= 8:
            raise ValueError(f"NotBackground: probes must be in 1..8, got {probes}.")
        self.probes = probes

    def keeps(self, masks: Masks) -> Tensor:
        bottom, right = (size - 1 for size in masks.masks.shape[-2:])
        middle, centre = (size // 2 for size in masks.masks.shape[-2:])
        rows = [0, 0, 0, middle, middle, bottom, bottom, bottom]
        columns = [0, centre, right, 0, right, 0, centre, right]
        return _hard(masks.masks[..., rows, columns]).sum(dim=-1) < self.probes


class MaximumComponents(Filter):
    """Drops masks of more than `components` connected regions (pixels that share an edge are connected)."""

    def __init__(self, components: int = 30) -> None:
        if components < 1:
            raise ValueError(f"MaximumComponents: components must be at least 1, got {components}.")
        self.components = components

    def keeps(self, masks: Masks) -> Tensor:
        stacks = _hard(masks.masks[masks.valid]).cpu().numpy()
        counts = np.array([ndimage.label(mask)[1] for mask in stacks], dtype=np.int64)
        kept = masks.valid.clone()
        kept[masks.valid] = torch.from_numpy(counts <= self.components).to(kept.device)
        return kept


class MaximumAspectRatio(Filter):
    """Drops masks whose box has a longer side more than `ratio` times the shorter one."""

    def __init__(self, ratio: float = 6.0) -> None:
        if ratio < 1:
            raise ValueError(f"MaximumAspectRatio: ratio must be at least 1, got {ratio}.")
        self.ratio = ratio

    def keeps(self, masks: Masks) -> Tensor:
        hard = _hard(masks.masks)
        height, width = _extent(hard.any(dim=-1)), _extent(hard.any(dim=-2))
        return torch.maximum(height, width) <= self.ratio * torch.minimum(height, width)


class BorderTouch(Filter):
    """Drops masks with more than `pixels` pixels on the image's border (its outermost ring, each pixel once)."""

    def __init__(self, pixels: int = 200) -> None:
        if pixels < 0:
            raise ValueError(f"BorderTouch: pixels must be 0 or more, got {pixels}.")
        self.pixels = pixels

    def keeps(self, masks: Masks) -> Tensor:
        return _border(masks) <= self.pixels


class BorderVersusArea(Filter):
    """Drops masks whose pixels on the border number more than `ratio` times their share of the image.

    The units are mixed as they were published: at 0.01 a single pixel on the border drops any mask.
    """

    def __init__(self, ratio: float = 0.01) -> None:
        if ratio < 0:
            raise ValueError(f"BorderVersusArea: ratio must be 0 or more, got {ratio}.")
        self.ratio = ratio

    def keeps(self, masks: Masks) -> Tensor:
        height, width = masks.masks.shape[-2:]
        return _border(masks) <= self.ratio * _area(masks) / (height * width)


class LargestArea(Filter):
    """Keeps the `count` largest masks of an image; a tie goes to the lowest index."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"LargestArea: count must be at least 1, got {count}.")
        self.count = count

    def keeps(self, masks: Masks) -> Tensor:
        areas = _area(masks).masked_fill(~masks.valid, -1)
        order = areas.argsort(dim=1, descending=True, stable=True)[:, : self.count]
        return torch.zeros_like(masks.valid).scatter_(1, order, True)


class Filters:
    """Filters one after the other; where an image loses all its masks, the whole image becomes its first mask, score 1.

    An image that had no mask to begin with gets the whole image too, so that every image has something to encode.
    """

    def __init__(self, filters: Sequence[Filter]) -> None:
        self.filters = tuple(filters)

    def __call__(self, masks: Masks) -> Masks:
        left = masks
        for rule in self.filters:
            left = replace(left, valid=left.valid & rule.keeps(left))
        kept = _only(masks, left.valid.clone())
        lost = ~kept.valid.any(dim=1)
        if kept.masks.shape[1] == 0:
            size = (len(masks), 1)
            empty = masks.masks.new_zeros(*size, *masks.masks.shape[2:])
            kept = Masks(empty, masks.scores.new_zeros(size), masks.valid.new_zeros(size))
        # These tensors are new, so they may be written to.
        kept.masks[lost, 0], kept.scores[lost, 0], kept.valid[lost, 0] = True, 1.0, True
        return kept


def published() -> Filters:
    """The filters of the published runs, in their order."""
    return Filters([MinimumArea(), NotBackground(), MaximumComponents()])


def _only(masks: Masks, valid: Tensor) -> Masks:
    """The masks that stay valid; the others are emptied."""
    empty = torch.zeros((), dtype=masks.masks.dtype, device=masks.masks.device)
    return Masks(torch.where(valid[..., None, None], masks.masks, empty), masks.scores.masked_fill(~valid, 0), valid)


def _hard(masks: Tensor) -> Tensor:
    return masks if masks.dtype == torch.bool else masks >= 0.5


def _area(masks: Masks) -> Tensor:
    """(B K) pixels."""
    return _hard(masks.masks).flatten(2).sum(dim=-1)


def _border(masks: Masks) -> Tensor:
    """(B K) pixels on the outermost ring."""
    hard = _hard(masks.masks)
    inner = hard[..., 1:-1, 1:-1].flatten(2).sum(dim=-1)
    return hard.flatten(2).sum(dim=-1) - inner


def _extent(present: Tensor) -> Tensor:
    """(... n) bool -> from the first to the last true place, both counted; 0 without any."""
    first = present.byte().argmax(dim=-1)
    last = present.shape[-1] - 1 - present.flip(-1).byte().argmax(dim=-1)
    return (last - first + 1) * present.any(dim=-1)

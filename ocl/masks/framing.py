"""Which square of an image is shown for a mask."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ocl.masks.resampling import Squares


class Frame(Protocol):
    """masks (B K H W), bool or float in [0, 1] -> one square per mask, or per image where masks do not matter."""

    def __call__(self, masks: Tensor) -> Squares: ...


class AroundImage:
    """The smallest square that holds the image, centred on it."""

    def __call__(self, masks: Tensor) -> Squares:
        height, width = masks.shape[-2:]
        return _same(masks, max(height, width))


class CentreSquare:
    """The largest square inside the image, at its centre: what resizing the shorter side and a centre crop leave."""

    def __call__(self, masks: Tensor) -> Squares:
        height, width = masks.shape[-2:]
        return _same(masks, min(height, width))


class AroundMask:
    """The smallest square around the mask's box: side max(height, width) of the box, centred on it, rounded down to
    whole pixels. An empty mask gets the square of `AroundImage`.

    Args:
        pad_ratio: room left on either side of the box, as a share of its longer side.
        threshold: a soft mask's box holds the pixels with at least this share of its largest value.
        published: centre the square on pixel (first + last) // 2 as the public code does, which leaves the last row
            or column out where the longer side is even.
    """

    def __init__(self, pad_ratio: float = 0.0, threshold: float = 0.5, published: bool = False) -> None:
        if pad_ratio < 0 or not 0 < threshold <= 1:
            raise ValueError(
                f"pad_ratio must not be negative and threshold lie in (0, 1], got {pad_ratio} and {threshold}."
            )
        self.pad_ratio = pad_ratio
        self.threshold = threshold
        self.published = published

    def __call__(self, masks: Tensor) -> Squares:
        height, width = masks.shape[-2:]
        left, top, right, bottom = mask_boxes(masks, self.threshold).unbind(-1)
        empty = right <= left
        longer = torch.maximum(right - left, bottom - top)
        side = longer + 2 * (self.pad_ratio * longer.double()).ceil().long()  # rounded as `largest` is
        if self.published:
            left, top = (left + right - 1) // 2 - side // 2, (top + bottom - 1) // 2 - side // 2
        else:
            left, top = (left + right - side) // 2, (top + bottom - side) // 2
        whole = AroundImage()(masks)
        longest = max(height, width)
        return Squares(
            torch.where(empty, whole.left, left),
            torch.where(empty, whole.top, top),
            torch.where(empty, whole.side, side),
            longest + 2 * math.ceil(self.pad_ratio * longest),
        )


def mask_boxes(masks: Tensor, threshold: float = 0.5) -> Tensor:
    """The tight box of each mask, around the pixels with at least `threshold` times the mask's largest value.

    Args:
        masks: (B K H W) bool or float.

    Returns:
        (B K 4) int64 as (left, top, right, bottom) in pixels, right and bottom exclusive; zeros for an empty mask.
    """
    if 0 in masks.shape:
        return torch.zeros(*masks.shape[:2], 4, dtype=torch.int64, device=masks.device)
    values = masks.view(torch.uint8) if masks.dtype == torch.bool else masks  # bytes reduce seven times as fast
    columns, rows = values.amax(-2), values.amax(-1)  # (B K W), (B K H)
    peak = columns.amax(-1, keepdim=True)
    spans = []
    for line in ((line >= threshold * peak) & (peak > 0) for line in (columns, rows)):
        first = line.byte().argmax(-1)
        last = line.shape[-1] - line.flip(-1).byte().argmax(-1)
        present = line.any(-1)
        spans.append((first * present, last * present))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=-1)


def _same(masks: Tensor, side: int) -> Squares:
    """One centred square for all masks."""
    height, width = masks.shape[-2:]
    left, top, sides = (
        torch.full((len(masks), 1), value, device=masks.device)
        for value in ((width - side) // 2, (height - side) // 2, side)
    )
    return Squares(left, top, sides, side)

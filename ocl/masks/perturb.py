"""Masks made worse by a known amount: eroded, dilated, split and merged to a target IoU with what they were.

Each pixel gets a rank and the best-ranked ones are taken, so the target is met to the pixel: with A pixels in the mask
and IoU q, erosion and the first part of a split keep round(q A) of them, dilation and merging grow to round(A / q).
Where the image has no more pixels to grow into, the mask is the whole image and the IoU stays above the target.
Whatever looks random (where a mask is cut or grown) is a function of the mask and the seed, not of the batch around it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.base import Masks, MaskSource
from ocl.shapes import Batch


class Perturbation(ABC):
    """Masks -> worse masks.

    Args:
        iou: of the result (of a split's first part) with the mask, in (0, 1].
        seed: of directions.

    Raises:
        ValueError: an IoU out of range; masks that are not bool (B K H W).
    """

    def __init__(self, iou: float, seed: int = 0) -> None:
        if not 0 < iou <= 1:
            raise ValueError(f"{type(self).__name__}: iou must be in (0, 1], got {iou}.")
        self.iou, self.seed = iou, seed

    def __call__(self, masks: Tensor) -> Tensor:
        """(B K H W) bool -> (B K H W) bool, (B 2K H W) for a split; an empty mask stays empty."""
        if masks.ndim != 4 or masks.dtype != torch.bool:
            raise ValueError(
                f"{type(self).__name__} needs masks (B, K, H, W) of bool, got {tuple(masks.shape)} {masks.dtype}; "
                "threshold soft masks first."
            )
        return self.perturb(masks)

    @abstractmethod
    def perturb(self, masks: Tensor) -> Tensor: ...

    def direction(self, masks: Tensor) -> Tensor:
        """(B K 2) unit vectors (x, y), spread over the circle by the golden ratio of where the mask's pixels are."""
        place = torch.arange(masks[0, 0].numel(), device=masks.device)
        code = (masks.flatten(2) * place).sum(-1) + 7919 * self.seed
        angle = 2 * math.pi * torch.frac(code.double() * ((math.sqrt(5) - 1) / 2))
        return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


class Erode(Perturbation):
    """Keep the pixels that lie deepest in the mask: survivors of most 3 x 3 erosions.

    Of the outermost layer that is only partly kept, pixels all around are.
    """

    def perturb(self, masks: Tensor) -> Tensor:
        return _best(_depth(masks) + _ties(masks), masks, _count(masks, self.iou))


class Dilate(Perturbation):
    """Add the pixels nearest to the mask: reached by fewest 3 x 3 dilations; of the last layer, pixels all around."""

    def perturb(self, masks: Tensor) -> Tensor:
        return masks | _best(_ties(masks) - _depth(~masks), ~masks, _count(masks, 1 / self.iou) - _area(masks))


class Split(Perturbation):
    """Cut each mask along a straight line into two: parts k and K + k, the first with the IoU asked for."""

    def perturb(self, masks: Tensor) -> Tensor:
        first = _best(_along(self.direction(masks), masks), masks, _count(masks, self.iou))
        return torch.cat([first, masks & ~first], dim=1)


class Merge(Perturbation):
    """Join the mask with a round neighbouring region on one side of it, as when two segments were taken for one."""

    def perturb(self, masks: Tensor) -> Tensor:
        along = _along(self.direction(masks), masks).flatten(2)
        edge = along.masked_fill(~masks.flatten(2), -math.inf).argmax(-1)  # (B K) the mask's pixel farthest that way
        width = masks.shape[-1]
        y, x = _grid(masks)
        at_y, at_x = (edge // width)[..., None, None], (edge % width)[..., None, None]
        nearness = -((y - at_y).square() + (x - at_x).square()).float()  # (B K H W)
        return masks | _best(nearness, ~masks, _count(masks, 1 / self.iou) - _area(masks))


class PerturbedMasks:
    """A mask source whose valid masks are perturbed; both parts of a split keep the score of their mask."""

    def __init__(self, source: MaskSource, perturbation: Perturbation) -> None:
        self.source, self.perturbation = source, perturbation

    def __call__(self, batch: Batch) -> Masks:
        found = self.source(batch)
        worse = self.perturbation(found.masks & found.valid[..., None, None])
        parts = worse.shape[1] // max(1, found.masks.shape[1])
        return Masks.of(worse, found.scores.repeat(1, parts))


def _area(masks: Tensor) -> Tensor:
    return masks.flatten(2).sum(-1)


def _count(masks: Tensor, factor: float) -> Tensor:
    """(B K) pixels of the result, at least one of a mask that has any."""
    area = _area(masks)
    return (area * factor).round().long().clamp(min=1).where(area > 0, 0)


def _best(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` (B K) pixels of the highest score (B K H W) among those of a mask; ties in raster order."""
    ranked = score.masked_fill(~among, -math.inf).flatten(2).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(ranked)
    rank.scatter_(-1, ranked, torch.arange(ranked.shape[-1], device=rank.device).expand_as(ranked))
    best: Tensor = (rank < count[..., None]).unflatten(-1, among.shape[-2:]) & among
    return best


def _depth(masks: Tensor) -> Tensor:
    """(B K H W) float: how many 3 x 3 erosions a pixel survives, plus one; 0 outside. The frame erodes nothing."""
    depth = masks.float()
    left = 1 - depth
    for _ in range(max(masks.shape[-2:])):
        left = F.max_pool2d(left, 3, 1, 1)
        depth += 1 - left
    return depth


def _ties(masks: Tensor) -> Tensor:
    """(H W) in [0, 1): breaks ties of whole numbers evenly along rows, columns and in between.

    The two steps are Roberts' for the plane, powers of the inverse of the plastic number. An order with a place in it
    (say, from the middle) would cut off corners first, which turns squares into circles.
    """
    y, x = _grid(masks)
    return torch.frac(0.7548776662466927 * x.double() + 0.5698402909980532 * y.double()).float()


def _along(direction: Tensor, masks: Tensor) -> Tensor:
    """(B K H W) coordinate of every pixel along (B K 2)."""
    y, x = _grid(masks)
    return direction[..., 0, None, None] * x + direction[..., 1, None, None] * y


def _grid(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (H 1) and columns (W)."""
    height, width = masks.shape[-2:]
    return torch.arange(height, device=masks.device)[:, None], torch.arange(width, device=masks.device)

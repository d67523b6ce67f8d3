"""Masks made worse by a known amount: eroded, dilated, split and merged to a target IoU with what they were.

With A pixels in the mask and IoU q, erosion and the first part of a split keep q A of them, dilation and merging grow
to A / q: splits and merges, which are hard masks, to the nearest whole pixel, erosions and dilations exactly.
Where the image has no more pixels to grow into, the mask is the whole image and the IoU stays above the target.
Whatever looks random (where a mask is cut or grown) is a function of the mask and the seed, not of the batch around it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.base import Masks, MaskSource, required_by
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
        """(B K H W) bool -> (B K H W) bool or float32, (B 2K H W) for a split; an empty mask stays empty."""
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
        place = torch.arange(masks.shape[2] * masks.shape[3], device=masks.device)
        code = (masks.flatten(2) * place).sum(-1) + 7919 * self.seed
        angle = 2 * math.pi * torch.frac(code.double() * ((math.sqrt(5) - 1) / 2))
        return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


class Erode(Perturbation):
    """Keep the pixels that lie deepest in the mask: survivors of most 3 x 3 erosions. Soft masks.

    The layer that is only partly kept has a weight below one, as under an edge that was moved by part of a pixel; the
    IoU of soft masks (sum of minima / sum of maxima) is the target exactly. Dropping some of its pixels instead would
    leave a ragged edge or cut off corners, which is another damage than that of a smaller mask.
    """

    def perturb(self, masks: Tensor) -> Tensor:
        depth = _depth(masks)
        return _layers(depth.amax((-2, -1), keepdim=True) + 1 - depth, masks, self.iou * _area(masks))


class Dilate(Perturbation):
    """Add the pixels nearest to the mask: reached by fewest 3 x 3 dilations. Soft masks, as of `Erode`."""

    def perturb(self, masks: Tensor) -> Tensor:
        area = _area(masks)
        return masks + _layers(_depth(~masks), ~masks, area / self.iou - area)


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
        self.requires = required_by(source)

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
    depth = masks.float().flatten(0, 1)[:, None]  # (B*K 1 H W): pooling takes no images, but not no channels
    gone = 1 - depth
    for _ in range(max(masks.shape[-2:])):
        gone = F.max_pool2d(gone, 3, 1, 1)
        if gone.all():
            break
        depth += 1 - gone
    return depth.view(masks.shape)


def _layers(number: Tensor, among: Tensor, amount: Tensor) -> Tensor:
    """`amount` (B K) of pixels taken layer by layer, the last one with a weight in [0, 1]: (B K H W) float32.

    number: (B K H W) the layers of the pixels of `among`, whole numbers from 1 up, in the order in which they go.
    """
    layer = (number * among).long().flatten(2)  # 0 is no layer
    counts = torch.zeros(*layer.shape[:2], max(among.shape[-2:]) + 3, dtype=torch.float64, device=layer.device)
    counts.scatter_add_(-1, layer, among.flatten(2).double())
    before = counts.cumsum(-1) - counts
    weight = ((amount[..., None] - before) / counts.clamp(min=1)).clamp(0, 1)
    taken: Tensor = weight.gather(-1, layer).float().unflatten(-1, among.shape[-2:]) * among
    return taken


def _along(direction: Tensor, masks: Tensor) -> Tensor:
    """(B K H W) coordinate of every pixel along (B K 2)."""
    y, x = _grid(masks)
    return direction[..., 0, None, None] * x + direction[..., 1, None, None] * y


def _grid(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (H 1) and columns (W)."""
    height, width = masks.shape[-2:]
    return torch.arange(height, device=masks.device)[:, None], torch.arange(width, device=masks.device)

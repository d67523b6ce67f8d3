"""Label maps (B H W) and stacks of masks (B K H W): one into the other without loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ocl.masks.base import Masks
from ocl.shapes import IGNORE

LARGEST = 65535
"""Labels fit 16 bits: what an image file can hold."""


def segment_ids(labels: Tensor, zero: bool = False) -> Tensor:
    """The distinct labels of every image, ascending, padded with `IGNORE`: (B H W) -> (B K) int64.

    zero: whether 0 is a segment like the others (in maps of detectors the pixels that nobody claims, which published
        runs of OCCAM keep as one more candidate) or no segment. `IGNORE` never is one.

    Raises:
        ValueError: not (B H W) integer, or labels outside -1..65535.
    """
    if labels.ndim != 3 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be (B, H, W) integer, got {tuple(labels.shape)} {labels.dtype}.")
    images = len(labels)
    if labels.numel() == 0:
        return labels.new_zeros(images, 0, dtype=torch.int64)
    lowest, highest = torch.stack(labels.long().aminmax()).tolist()
    if lowest < IGNORE or highest > LARGEST:
        raise ValueError(f"labels must be in {IGNORE}..{LARGEST}, got {lowest}..{highest}; number the segments from 1.")
    present = torch.zeros(images, highest + 2, dtype=torch.bool, device=labels.device)
    present.scatter_(1, labels.flatten(1).long() + 1, True)
    present = present[:, 1 if zero else 2 :]
    image, label = present.nonzero(as_tuple=True)
    column = present.cumsum(dim=1)[image, label] - 1
    ids = labels.new_full((images, int(present.sum(dim=1).max())), IGNORE, dtype=torch.int64)
    ids[image, column] = label + (0 if zero else 1)
    return ids


def to_masks(labels: Tensor, zero: bool = False) -> Masks:
    """(B H W) -> one mask per distinct label, in the order of `segment_ids`, every score 1. K is 0 without a segment.

    Raises:
        ValueError: see `segment_ids`.
    """
    ids = segment_ids(labels, zero)
    valid = ids != IGNORE
    return Masks((labels.unsqueeze(1) == ids[..., None, None]) & valid[..., None, None], valid.float(), valid)


def paint(masks: Masks, ids: Tensor | None = None, unclaimed: int = 0) -> Tensor:
    """Stack -> label map (B H W) int64; where masks overlap, the highest score wins the pixel, a tie the lowest index.

    The same as painting in ascending order of scores. `paint(to_masks(labels), segment_ids(labels))` is `labels` where
    nothing is ignored; so it is with `zero=True` and `unclaimed=IGNORE` everywhere.

    Args:
        masks: bool; those that are not valid are not painted.
        ids: (B K) labels to paint with; None paints mask k as k + 1.
        unclaimed: label of the pixels of no mask.

    Raises:
        ValueError: soft masks, or ids of another shape.
    """
    if masks.masks.dtype != torch.bool:
        raise ValueError("Only hard masks can be painted; cut soft ones at a threshold, or take their argmax.")
    images, count, height, width = masks.masks.shape
    if ids is None:
        ids = torch.arange(1, count + 1, device=masks.masks.device).expand(images, -1)
    if ids.shape != (images, count):
        raise ValueError(f"ids must be {(images, count)} like the masks, got {tuple(ids.shape)}.")
    order = masks.scores.masked_fill(~masks.valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rows = torch.arange(images, device=order.device)[:, None]
    stacked = (masks.masks & masks.valid[..., None, None])[rows, order]  # (B K H W), best first
    nobody = torch.ones(images, 1, height, width, dtype=torch.bool, device=order.device)
    first = torch.cat([stacked, nobody], dim=1).byte().argmax(dim=1)  # of several ones the first
    names = torch.cat([ids.long().gather(1, order), ids.new_full((images, 1), unclaimed, dtype=torch.int64)], dim=1)
    return names.gather(1, first.flatten(1)).view(images, height, width)

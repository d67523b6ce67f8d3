"""Which object a patch shows: the most common label of its pixels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.shapes import IGNORE

LARGEST_ID = 65_535


@dataclass
class PatchLabels:
    """One label per patch, N = h w patches in raster order.

    labels: (... N) int64; `IGNORE` where the object is unknown, not wanted, or the patch too mixed.
    purity: (... N) float32, the share of a patch's pixels that carry its most common label.
    """

    labels: Tensor
    purity: Tensor


def patch_labels(
    segmentation: Tensor, grid: tuple[int, int], purity: float = 0.0, ignore: Collection[int] = ()
) -> PatchLabels:
    """The most common label of every patch; of equally common ones the lowest, so `IGNORE` before any other.

    Pixels to be ignored take part under the label `IGNORE`: a patch that is mostly unknown is unknown. Where the sides
    of the image are no multiples of the grid the labels are resized to the next ones, nearest neighbour; labels are
    never mixed.

    Args:
        segmentation: (... H W) integer, labels 0..65,535 and `IGNORE`; (B H W), or (B P H W) for P annotators.
        grid: (h, w) patches.
        purity: least share of its pixels that a patch's label needs; 0, the default, keeps every patch, as published.
        ignore: labels that count as unknown, in every image: 0 for background, or the labels of stuff. See `without`
            for labels that mean another thing in each image.

    Raises:
        TypeError: labels that are not integers.
        ValueError: no two sides, an empty image or grid, labels out of range, or a share outside [0, 1].
    """
    rows, columns = grid
    if segmentation.ndim < 2 or min(segmentation.shape[-2:], default=0) < 1 or min(rows, columns) < 1:
        raise ValueError(f"patch_labels needs (..., H, W) and a grid, got {tuple(segmentation.shape)} and {grid}.")
    if segmentation.is_floating_point() or segmentation.dtype in (torch.bool, torch.complex64):
        raise TypeError(f"segmentations are integers, got {segmentation.dtype}; resize them with nearest neighbours.")
    if not 0 <= purity <= 1:
        raise ValueError(f"purity is a share of pixels in [0, 1], got {purity}.")
    segmentation = segmentation.long()  # of 16 bits without sign, torch knows no least
    if segmentation.numel() and not IGNORE <= int(segmentation.min()) <= int(segmentation.max()) <= LARGEST_ID:
        found = f"{int(segmentation.min())} to {int(segmentation.max())}"
        raise ValueError(f"labels must be 0 to {LARGEST_ID:,}, or {IGNORE} for unknown, got {found}; number them anew.")
    labels = segmentation.to(torch.int32)
    if ignore:
        unwanted = torch.tensor(sorted(ignore), dtype=torch.int32, device=labels.device)
        labels = labels.masked_fill(torch.isin(labels, unwanted), IGNORE)
    most, share = _mode(_pixels(labels, grid))
    return PatchLabels(most.masked_fill(share < purity, IGNORE), share)


def without(segmentation: Tensor, objects: Tensor) -> Tensor:
    """The segmentation with `IGNORE` where it shows one of these objects: stuff, crowds, whatever differs by image.

    segmentation: (B H W) int64, 0 background and m + 1 the object in column m; objects: (B M) bool.
    """
    hidden = torch.cat([objects.new_zeros(len(objects), 1), objects], dim=1)  # background first
    labels = segmentation.clamp(min=0)
    if labels.numel() and int(labels.max()) >= hidden.shape[1]:
        raise ValueError(f"the segmentation shows object {int(labels.max())} of {objects.shape[1]}; give every column.")
    return segmentation.masked_fill(hidden.gather(1, labels.flatten(1)).view_as(segmentation), IGNORE)


def _pixels(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """(... H W) -> (... N P): the P pixels of each patch, in raster order."""
    height, width = labels.shape[-2:]
    rows, columns = grid
    across, down = -(-width // columns), -(-height // rows)  # pixels of a patch, at least as many as there are
    if (rows * down, columns * across) != (height, width):
        labels = labels[..., _nearest(height, rows * down, labels), :]
        labels = labels[..., _nearest(width, columns * across, labels)]
    patches: Tensor = labels.unflatten(-1, (columns, across)).unflatten(-3, (rows, down))  # (... h down w across)
    return patches.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _nearest(size: int, wanted: int, like: Tensor) -> Tensor:
    """(wanted) int64: the pixel at the centre of each of `wanted` equal parts of a line of `size` pixels."""
    return (2 * torch.arange(wanted, device=like.device) + 1) * size // (2 * wanted)


def _mode(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(... P) -> the most common label (...) int64, the lowest of several, and its share (...) float32."""
    ordered = labels.sort(dim=-1).values
    count = ordered.shape[-1]
    place = torch.arange(count, device=labels.device)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    begins[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    run = place - torch.where(begins, place, 0).cummax(dim=-1).values  # how many equal labels stand before this one
    longest = run.amax(dim=-1, keepdim=True)
    most = ordered.masked_fill(run < longest, LARGEST_ID).amin(dim=-1)
    return most.long(), (longest.squeeze(-1) + 1).float() / count

"""From masks to label maps to contingency tables: the one pass over pixels that every segmentation metric shares.

Rules that hold for every metric built on the table:

    true label 0        background
    true label m + 1    object m
    true label IGNORE   the pixel is dropped from everything, areas of predicted segments included
    predicted label k   segment k
    predicted label -1  no segment claims the pixel: never a candidate for overlap, one cluster of its own for ARI
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ocl.shapes import IGNORE

UNCLAIMED = -1
"""Predicted label of pixels that no segment claims."""

_CHUNK = 2**20  # upsampled mask values held at a time: bounds memory, and stays in the cache of a CPU


def label_map(masks: Tensor, size: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Soft masks -> hard label map at the resolution of the ground truth: upsample bilinearly, THEN argmax.

    The order matters (argmax at 14x14 and nearest upsampling scores several points lower). Ties go to the lowest
    slot; a pixel where every mask is 0 is `UNCLAIMED`.

    Args:
        masks: (B K h w), or (B T K h w) for video, floating in [0, 1].
        size: (H, W) of the true segmentation.
        valid: (B K) or (B T K) bool; masks of invalid slots claim nothing.

    Returns:
        (B H W) or (B T H W) int64.

    Raises:
        ValueError: a wrong shape, no slot, or values outside [0, 1] (logits, NaN).
    """
    if masks.ndim not in (4, 5) or masks.shape[-3] == 0 or not masks.is_floating_point():
        raise ValueError(
            f"masks must be floating (B, K, h, w) or (B, T, K, h, w), got {masks.dtype} {tuple(masks.shape)}."
        )
    lowest, highest = torch.stack(masks.aminmax()).tolist() if masks.numel() else (0.0, 0.0)
    if not 0 <= lowest <= highest <= 1.01:  # false for NaN
        raise ValueError("masks must lie in [0, 1]; apply softmax over slots first and look for NaN.")
    if valid is not None:
        if valid.shape != masks.shape[:-2] or valid.dtype != torch.bool:
            raise ValueError(
                f"valid must be bool {tuple(masks.shape[:-2])} for masks {tuple(masks.shape)}, got {valid.dtype} "
                f"{tuple(valid.shape)}."
            )
        masks = masks * valid[..., None, None]
    images = masks.flatten(0, -4)  # (B T) K h w
    labels = torch.empty(len(images), *size, dtype=torch.int64, device=masks.device)
    step = max(1, _CHUNK // (images.shape[1] * size[0] * size[1]))
    for start in range(0, len(images), step):
        soft = images[start : start + step].float()
        if soft.shape[-2:] != size:
            soft = functional.interpolate(soft, size, mode="bilinear", align_corners=False)
        largest, label = soft.max(dim=1)
        labels[start : start + step] = label.masked_fill_(largest <= 0, UNCLAIMED)
    return labels.view(*masks.shape[:-3], *size)


def class_segmentation(segmentation: Tensor, classes: Tensor) -> Tensor:
    """Merge instances of one class: the ground truth of class-level mBO.

    Args:
        segmentation: (B H W) integer instance labels, 0 background.
        classes: (B M) int64, class >= 0 of the object in column m (label m + 1); of objects that the segmentation does
            not show, anything.

    Returns:
        (B H W) int64: 0 background, c + 1 any object of class c, `IGNORE` kept.

    Raises:
        ValueError: another number of images, or a label without a class.
    """
    if classes.ndim != 2 or len(classes) != len(segmentation):
        raise ValueError(f"classes must be (B, M) with B = {len(segmentation)}, got {tuple(classes.shape)}.")
    segmentation = segmentation.long()
    if segmentation.numel() and int(segmentation.max()) > classes.shape[1]:
        raise ValueError(
            f"segmentation holds label {int(segmentation.max())}, but classes names {classes.shape[1]} objects."
        )
    names = functional.pad(classes + 1, (1, 0))  # column 0 is the background
    merged = names.gather(1, segmentation.clamp(min=0).flatten(1)).view_as(segmentation)
    if ((segmentation > 0) & (merged < 1)).any():
        raise ValueError(
            "a negative class would turn its object into background; give every visible object one from 0."
        )
    return merged.masked_fill(segmentation == IGNORE, IGNORE)


def as_labels(prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Check both sides and bring them to (B pixels) int64; soft masks go through `label_map`.

    Raises:
        ValueError: shapes that do not fit, or labels below -1.
        TypeError: a segmentation that is not integer.
    """
    if segmentation.is_floating_point() or segmentation.dtype == torch.bool:
        raise TypeError(f"segmentation must be an integer label map, got {segmentation.dtype}.")
    if segmentation.ndim not in (3, 4):
        raise ValueError(f"segmentation must be (B, H, W) or (B, T, H, W), got {tuple(segmentation.shape)}.")
    if prediction.is_floating_point():
        prediction = label_map(prediction, (segmentation.shape[-2], segmentation.shape[-1]), valid)
    elif valid is not None:
        raise ValueError("valid belongs to soft masks; in a predicted label map mark pixels of invalid slots -1.")
    if prediction.shape != segmentation.shape:
        raise ValueError(
            f"prediction {tuple(prediction.shape)} and segmentation {tuple(segmentation.shape)} must have one shape; "
            "pass soft masks to have them upsampled."
        )
    return prediction.flatten(1).long(), segmentation.flatten(1).long()


def contingency(prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> Tensor:
    """Count the pixels that each true label shares with each predicted label, in every image.

    Args:
        prediction: (B H W) integer label map, or soft masks (B K h w), see `label_map`. Video: (B T H W) or
            (B T K h w); the T frames count as one clip, with labels that persist through it.
        segmentation: (B H W) or (B T H W) integer, see the rules above.
        valid: (B K), or (B T K), bool; only with soft masks.

    Returns:
        (B G P) float64 (exact up to 2^53): row 0 background, row m + 1 object m; column 0 unclaimed pixels,
        column k + 1 predicted segment k. G and P are at least 2.

    Raises:
        ValueError: shapes that do not fit, labels below -1, or labels so large that the table would dwarf the images.
        TypeError: a segmentation that is not integer.
    """
    predicted, true = as_labels(prediction, segmentation, valid)
    images, pixels = true.shape
    if true.numel() == 0:
        return torch.zeros(images, 2, 2, dtype=torch.float64, device=true.device)
    limits = torch.stack([*true.aminmax(), *predicted.aminmax()]).tolist()  # one transfer from the device
    if min(limits[0], limits[2]) < -1:
        raise ValueError(f"labels must be -1 or more, got {limits[0]} in segmentation and {limits[2]} in prediction.")
    rows, columns = max(limits[1], 1) + 1, max(limits[3], 0) + 2
    if rows * columns > max(pixels, 2**20):
        raise ValueError(
            f"labels up to {limits[1]} (true) and {limits[3]} (predicted) are too sparse for {pixels} pixels; "
            "number the segments of each image from 0."
        )
    table = torch.empty(images, rows, columns, dtype=torch.float64, device=true.device)
    step = images if true.is_cuda else max(1, 2**18 // pixels)  # a CPU is twice as fast where the indices fit its cache
    for start in range(0, images, step):
        part = true[start : start + step]
        cell = part * columns + predicted[start : start + step] + 1
        cell += torch.arange(len(part), device=cell.device)[:, None] * (rows * columns)
        cell.masked_fill_(part == IGNORE, len(part) * rows * columns)  # one bin more, cut off below
        counts = torch.bincount(cell.flatten(), minlength=len(part) * rows * columns + 1)
        table[start : start + step] = counts[:-1].view(len(part), rows, columns)
    return table

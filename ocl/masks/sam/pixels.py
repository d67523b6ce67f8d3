"""Pixels into SAM and masks out of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.masks.base import Masks
from ocl.shapes import Batch, images_as_float


def checked_image(image: Any) -> NDArray[np.uint8]:
    """The image, if it is (H W 3) of uint8.

    Raises:
        TypeError: not a NumPy array, or not of uint8.
        ValueError: another number of axes or channels, or no pixels.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"an image must be a NumPy array of uint8 in 0..255, got {kind}.")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f"an image must be (H, W, 3) in RGB, got {image.shape}; convert it with Pillow's convert('RGB')."
        )
    return image


def images_of(batch: Batch) -> list[NDArray[np.uint8]]:
    """(B 3 H W) -> B images (H W 3) of uint8; floats are rounded.

    Raises:
        ValueError: images that are not finite or outside [0, 1].
    """
    images = batch.images
    if images.dtype != torch.uint8:
        images = images_as_float(images)
        if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is neither
            raise ValueError("floating images must be finite and in [0, 1]; scale them, or give uint8 in 0..255.")
        images = (255 * images).round().to(torch.uint8)
    elif images.ndim != 4 or images.shape[1] != 3:
        images_as_float(images)  # says what is wrong
    return list(images.permute(0, 2, 3, 1).cpu().numpy())


def stacked(masks: list[Tensor], scores: list[Tensor]) -> Masks:
    """For each of B images (n H W) bool and (n) -> (B K H W) with K the most of an image, padded with empty masks.

    Masks without a pixel are left out.
    """
    some = [each.flatten(1).any(dim=1) for each in masks]
    kept = [each[which] for each, which in zip(masks, some, strict=True)]
    size, most = masks[0].shape[1:], max(len(each) for each in kept)
    result = masks[0].new_zeros(len(masks), most, *size)
    confidence = torch.zeros(len(masks), most, device=result.device)
    for index, (each, score, which) in enumerate(zip(kept, scores, some, strict=True)):
        result[index, : len(each)] = each
        confidence[index, : len(each)] = score[which]
    return Masks.of(result, confidence)

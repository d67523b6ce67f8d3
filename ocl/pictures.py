"""Slots as pictures: uint8 grids that any logger, report or notebook can show."""

from __future__ import annotations

import colorsys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import encode_png
from torchvision.utils import make_grid

from ocl.files import write_atomically


def slot_colors(count: int) -> Tensor:
    """(K 3) uint8: one fixed, well separated colour per slot index (hues a golden ratio apart)."""
    colors = [colorsys.hsv_to_rgb(index * 0.618034 % 1.0, 0.75, 1.0) for index in range(count)]
    return (torch.tensor(colors) * 255).round().to(torch.uint8)


def overlay(images: Tensor, labels: Tensor, count: int, strength: float = 0.5) -> Tensor:
    """Images (B 3 H W) uint8 tinted by label maps (B H W) with values 0..count - 1; negative labels stay untinted."""
    tint = slot_colors(count).to(images.device)[labels.clamp(min=0)].movedim(-1, 1).float()
    mixed = torch.lerp(images.float(), tint, strength)
    return torch.where(labels.unsqueeze(1) >= 0, mixed, images.float()).round().to(torch.uint8)


def slot_grid(images: Tensor, masks: Tensor, prediction: Tensor | None = None) -> Tensor:
    """One row per image: image, reconstruction (if given), overlay of the winning slots, one tile per slot.

    images (B 3 H W) uint8; masks (B K h w), upsampled to the image; prediction (B 3 h w) in [-1, 1].
    Returns (3 H' W') uint8.
    """
    size = images.shape[-2:]
    masks = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False)
    count = masks.shape[1]
    columns = [images]
    if prediction is not None:
        painted = F.interpolate(prediction.float(), size, mode="bilinear", align_corners=False)
        columns.append(((painted.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    columns.append(overlay(images, masks.argmax(dim=1), count))
    columns += [
        (images * masks[:, [slot]] + 255 * 0.15 * (1 - masks[:, [slot]])).to(torch.uint8) for slot in range(count)
    ]
    tiles = torch.stack(columns, dim=1).flatten(0, 1)  # (B columns, 3 H W)
    grid: Tensor = make_grid(tiles, nrow=len(columns), padding=2, pad_value=255)
    return grid


def component_colors(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens (B N D) -> (B 3 h w) in [0, 1]: their three largest principal components over all images as red, green and
    blue, each from its 2nd to its 98th percentile."""
    flat = tokens.flatten(0, 1).double()
    flat = flat - flat.mean(dim=0)
    axes = torch.linalg.eigh(flat.mT @ flat).eigenvectors[:, -3:].flip(1)  # (D 3), the largest first
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    values = flat @ (axes * largest.sign())
    low, high = torch.quantile(values, torch.tensor([0.02, 0.98], dtype=values.dtype, device=values.device), dim=0)
    scaled: Tensor = ((values - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()
    return scaled.view(len(tokens), *grid, 3).movedim(-1, 1)


def write_png(path: Path, image: Tensor) -> Path:
    """Write an image (3 H W) uint8 on the CPU, whole or not at all."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(bytes(encode_png(image).numpy())))

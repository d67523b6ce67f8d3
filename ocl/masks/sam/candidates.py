"""Masks on their way through the filters of the automatic generator, eight pixels to a byte."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops.boxes import batched_nms


@dataclass
class Candidates:
    """n masks of one image or crop.

    packed:    (n, bytes) uint8, see `pack`.
    boxes:     (n 4) int64: x0, y0, x1, y1 in pixels, the last ones included; zeros for an empty mask.
    quality:   (n) predicted IoU.
    stability: (n) float32; NaN for a mask that is empty at both thresholds.
    points:    (n 2) float64: x, y of the prompt in pixels.
    crop_boxes: (n 4) int64: the crop that a mask was found in, x0, y0, x1, y1 in pixels of the whole image.
    """

    packed: Tensor
    boxes: Tensor
    quality: Tensor
    stability: Tensor
    points: Tensor
    crop_boxes: Tensor

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, which: Tensor) -> Candidates:
        return Candidates(*(getattr(self, field.name)[which] for field in fields(self)))

    def moved(self, crop: list[int], size: tuple[int, ...]) -> Candidates:
        """From the pixels of a crop x0, y0, x1, y1 to those of its image of this size."""
        x0, y0, x1, y1 = crop
        if (y1 - y0, x1 - x0) == tuple(size):
            return self
        margins = (x0, size[1] - x1, y0, size[0] - y1)
        packed = [pack(F.pad(unpack(some, (y1 - y0, x1 - x0)), margins)) for some in self.packed.split(64)]
        offset = self.boxes.new_tensor([x0, y0])
        return replace(self, packed=torch.cat(packed), boxes=self.boxes + offset.repeat(2), points=self.points + offset)

    @staticmethod
    def none(like: Tensor, size: tuple[int, ...]) -> Candidates:
        """No candidates of images of this size, with qualities of the type of `like`."""
        packed = like.new_zeros(0, -(-size[0] * size[1] // 8), dtype=torch.uint8)
        boxes, points = packed.new_zeros(0, 4, dtype=torch.int64), packed.new_zeros(0, 2, dtype=torch.float64)
        return Candidates(packed, boxes, like.new_zeros(0), points.new_zeros(0, dtype=torch.float32), points, boxes)

    @staticmethod
    def concatenated(parts: list[Candidates]) -> Candidates:
        return Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))


def stability_score(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """(n H W) -> (n): pixels above threshold + offset over those above threshold - offset; NaN where none are."""
    inner, outer = ((logits > threshold + by).sum(-1, dtype=torch.int32).sum(-1) for by in (offset, -offset))
    return inner / outer


def mask_boxes(masks: Tensor) -> Tensor:
    """(n H W) bool -> (n 4) int64: first and last column and row with a pixel; zeros without one."""
    edges = []
    for line in (masks.any(dim=1), masks.any(dim=2)):
        line = line.byte()
        edges.append((line.argmax(dim=1), line.shape[1] - 1 - line.flip(1).argmax(dim=1), line.any(dim=1)))
    (left, right, some), (top, bottom, _) = edges
    return torch.stack([left, top, right, bottom], dim=1) * some[:, None]


def suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices that box non-maximum suppression keeps, best score first; ties as torchvision orders them."""
    kept: Tensor = batched_nms(boxes.float(), scores, torch.zeros_like(boxes[:, 0]), threshold)
    return kept


def pack(masks: Tensor) -> Tensor:
    """(n H W) bool -> (n, bytes) uint8: eight pixels to a byte, in raster order, first pixel in the lowest bit."""
    flat = masks.flatten(1)
    words = F.pad(flat, (0, -flat.shape[1] % 8)).contiguous().view(torch.int64)
    # The product moves the lowest bit of byte i to bit 56 + i, and nothing else up there.
    return ((words * 0x0102040810204080) >> 56).to(torch.uint8)


def unpack(packed: Tensor, size: tuple[int, ...]) -> Tensor:
    """(n, bytes) uint8 -> (n H W) bool."""
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device)
    flat = (packed[..., None] >> bits).bitwise_and_(1).view(torch.bool).flatten(1)
    masks: Tensor = flat[:, : size[0] * size[1]].unflatten(1, size)
    return masks

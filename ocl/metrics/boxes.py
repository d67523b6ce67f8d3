"""CorLoc on boxes, the form that most published figures have."""

from __future__ import annotations

import torch
from torch import Tensor

from ocl.metrics.image_mean import ImageMean, PerImage
from ocl.metrics.labels import UNCLAIMED, as_labels
from ocl.shapes import IGNORE


def tight_boxes(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest box around each label >= 0 of a label map.

    Args:
        labels: (B H W) integer; negative labels belong to no box.

    Returns:
        boxes (B L 4) float64 as (left, top, right, bottom) in pixels, right and bottom exclusive, and present (B L)
        bool; L is the largest label + 1, at least 1. Absent labels have an empty box.
    """
    images, height, width = labels.shape
    count = max(int(labels.max()) if labels.numel() else 0, 0) + 1
    image = torch.arange(images, device=labels.device)[:, None, None]
    row = torch.arange(height, device=labels.device)[:, None]
    column = torch.arange(width, device=labels.device)
    segment = image * count + labels.long()
    spans = []
    for place, length in ((column, width), (row, height)):
        cell = (segment * length + place).masked_fill_(labels < 0, images * count * length)
        filled = torch.bincount(cell.flatten(), minlength=images * count * length + 1)[:-1] > 0
        filled = filled.view(images, count, length)
        first = filled.byte().argmax(2)
        last = length - filled.flip(2).byte().argmax(2)
        present = filled.any(2)
        spans.append((first * present, last * present))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=2).double(), present


def box_corloc(prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> PerImage:
    """1 if the box of at least one object overlaps the box of a predicted segment with IoU above 0.5, else 0.

    Ignored pixels are cut from both sides before boxes are drawn; background has no box. Images without an object do
    not count.

    Args:
        prediction: (B H W) integer label map or soft masks (B K h w).
        segmentation: (B H W) integer.
        valid: (B K) bool, only with soft masks.
    """
    if segmentation.ndim != 3:
        raise ValueError(
            f"box_corloc compares images: segmentation must be (B, H, W), got {tuple(segmentation.shape)}."
        )
    predicted, true = (labels.view_as(segmentation) for labels in as_labels(prediction, segmentation, valid))
    boxes, _ = tight_boxes(predicted.masked_fill(true == IGNORE, UNCLAIMED))
    true_boxes, present = tight_boxes(true - 1)
    corner = torch.maximum(true_boxes[:, :, None, :2], boxes[:, None, :, :2])
    opposite = torch.minimum(true_boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (opposite - corner).clamp(min=0).prod(3)  # (B M K)
    union = _area(true_boxes)[:, :, None] + _area(boxes)[:, None] - shared
    found = (shared / union.clamp(min=1) > 0.5).flatten(1).any(1)
    return PerImage(found.double(), present.any(1))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(-1)


class BoxCorLoc(ImageMean):
    """Mean over images of `box_corloc`."""

    def measure(self, prediction: Tensor, segmentation: Tensor, valid: Tensor | None) -> PerImage:
        return box_corloc(prediction, segmentation, valid)

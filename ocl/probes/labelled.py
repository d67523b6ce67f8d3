"""Slots beside the true objects of their images: what every probe of object vectors learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.matching import Assignment, optimal_assignment
from ocl.metrics.labels import contingency
from ocl.metrics.overlap import intersection_over_union
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch


@dataclass(frozen=True)
class LabelledSlots:
    """Slots of n images with the true objects in them.

    vectors: (n K D) floating. valid: (n K) bool. objects: as in `Batch.objects`, each (n M ...), "visible" among them.
    pairs: the slot of each object, columns (n M) and matched (n M); None to pair by likelihood.

    Raises:
        ValueError: shapes that do not fit, no "visible", or NaN in a valid slot or visible object.
    """

    vectors: Tensor
    valid: Tensor
    objects: Mapping[str, Tensor]
    pairs: Assignment | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 3 or self.valid.shape != self.vectors.shape[:2] or self.valid.dtype != torch.bool:
            raise ValueError(
                f"vectors must be (n, K, D) with valid bool (n, K), got {tuple(self.vectors.shape)} and "
                f"{self.valid.dtype} {tuple(self.valid.shape)}."
            )
        if "visible" not in self.objects or self.visible.dtype != torch.bool or self.visible.ndim != 2:
            raise ValueError('objects must hold "visible", bool (n, M); it says which columns are objects.')
        for name, values in self.objects.items():
            if len(values) != len(self.vectors) or values.shape[:2] != self.visible.shape:
                raise ValueError(
                    f'objects["{name}"] must start with (n, M) = ({len(self.vectors)}, {self.visible.shape[1]}), '
                    f"got {tuple(values.shape)}."
                )
            if values.is_floating_point() and not values[self.visible].isfinite().all():
                raise ValueError(f'objects["{name}"] holds NaN or infinity for a visible object.')
        if self.pairs is not None and any(part.shape != self.visible.shape for part in self.pairs):
            raise ValueError(f"pairs must be (n, M) = {tuple(self.visible.shape)}, one slot for each object.")
        if not (self.vectors.isfinite().all(2) | ~self.valid).all():
            raise ValueError("vectors hold NaN or infinity in a valid slot.")

    @property
    def visible(self) -> Tensor:
        return self.objects["visible"]

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, indices: Tensor) -> LabelledSlots:
        """The images at `indices`."""
        pairs = None if self.pairs is None else Assignment(self.pairs.columns[indices], self.pairs.matched[indices])
        objects = {name: values[indices] for name, values in self.objects.items()}
        return LabelledSlots(self.vectors[indices], self.valid[indices], objects, pairs)

    def split(self, share: float, seed: int = 0) -> tuple[LabelledSlots, LabelledSlots]:
        """Two parts with `share` and 1 - `share` of the images, chosen at random; an image is never in both."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        first = round(share * len(self))
        if not 0 < first < len(self):
            raise ValueError(f"share {share} of {len(self)} images leaves one part empty.")
        return self.take(order[:first]), self.take(order[first:])


def pair_by_masks(masks: Tensor, segmentation: Tensor, visible: Tensor, valid: Tensor) -> Assignment:
    """Pair objects with slots one to one so that the summed IoU of their masks is largest.

    Pairs without any overlap are dropped.

    Args:
        masks: (n K h w) soft. segmentation: (n H W), label m + 1 for column m. visible: (n M). valid: (n K).
    """
    iou, present = intersection_over_union(contingency(masks, segmentation, valid))
    if iou.shape[1] > visible.shape[1] and present[:, visible.shape[1] :].any():
        raise ValueError(f"segmentation names more objects than the {visible.shape[1]} columns of visible.")
    table = iou.new_zeros(*visible.shape, valid.shape[1])
    rows, columns = min(iou.shape[1], table.shape[1]), min(iou.shape[2], table.shape[2])
    table[:, :rows, :columns] = iou[:, :rows, :columns]
    slot, matched = optimal_assignment(-table, visible, valid)
    overlap = table.gather(2, slot[:, :, None])[:, :, 0] if table.shape[2] else table.new_zeros(visible.shape)
    return Assignment(slot, matched & (overlap > 0))


def collect(encoder: ObjectEncoder, batches: Iterable[Batch], by_masks: bool = False) -> LabelledSlots:
    """Encode batches with true objects and keep the result on the CPU.

    Args:
        by_masks: pair by masks; needs masks from the encoder and a segmentation in every batch.
    """
    parts: list[LabelledSlots] = []
    for batch in batches:
        slots = encoder(batch)
        pairs = None
        if by_masks:
            if slots.masks is None or batch.segmentation is None or "visible" not in batch.objects:
                raise ValueError("by_masks needs an encoder with masks and batches with a segmentation and objects.")
            pairs = pair_by_masks(slots.masks, batch.segmentation, batch.objects["visible"], slots.valid)
            pairs = Assignment(pairs.columns.cpu(), pairs.matched.cpu())
        objects = {name: values.cpu() for name, values in batch.objects.items()}
        parts.append(LabelledSlots(slots.vectors.cpu(), slots.valid.cpu(), objects, pairs))
    if not parts:
        raise ValueError("batches must hold at least one batch.")
    paired = [part.pairs for part in parts if part.pairs is not None]
    return LabelledSlots(
        torch.cat([part.vectors for part in parts]),
        torch.cat([part.valid for part in parts]),
        {name: torch.cat([part.objects[name] for part in parts]) for name in parts[0].objects},
        Assignment(*map(torch.cat, zip(*paired, strict=True))) if paired else None,
    )

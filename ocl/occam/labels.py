"""What the study reads of a batch beside its images: class, group and the mask of the labelled object.

"class" and "group" among `Batch.objects` are (B), or (B M) with the image's own in column 0, whose object has label 1
in the segmentation.
"""

from __future__ import annotations

from torch import Tensor

from ocl.masks.base import Masks
from ocl.masks.framing import mask_boxes
from ocl.shapes import Batch


def labels_of(batch: Batch) -> Tensor:
    """(B) int64. Raises ValueError where the batch has no class."""
    return _column(batch, "class")


def groups_of(batch: Batch) -> Tensor:
    """(B) int64: the group that worst-group accuracy is over. Raises ValueError where the batch has none."""
    return _column(batch, "group")


def main_object(batch: Batch) -> Tensor:
    """(B 1 H W) bool.

    Raises:
        ValueError: no segmentation, or an image without a pixel of its object.
    """
    if batch.segmentation is None:
        raise ValueError("the object of an image needs a segmentation with label 1; this data set gives none.")
    masks = (batch.segmentation == 1)[:, None]
    if not masks.flatten(1).any(dim=1).all():
        raise ValueError("an image has no pixel with label 1, its object; check the segmentation.")
    return masks


def boxes_of(batch: Batch) -> Tensor | None:
    """(B 4) boxes of the objects as in `Candidates.boxes`; None where there is no segmentation."""
    return None if batch.segmentation is None else mask_boxes(main_object(batch))[:, 0]


class TrueObject:
    """A mask source: the labelled object alone. K = 1, so that nothing is left to select."""

    requires = frozenset({"images", "segmentation"})

    def __call__(self, batch: Batch) -> Masks:
        return Masks.of(main_object(batch))


def _column(batch: Batch, name: str) -> Tensor:
    if name not in batch.objects:
        raise ValueError(
            f'the study needs "{name}" for every image; this data set has {", ".join(sorted(batch.objects)) or "none"}.'
        )
    values = batch.objects[name]
    if values.is_floating_point() or values.ndim not in (1, 2):
        raise ValueError(f'"{name}" must be integers, (B) or (B, M), got {values.dtype} {tuple(values.shape)}.')
    return (values if values.ndim == 1 else values[:, 0]).long()

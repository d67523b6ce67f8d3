"""Ground truth as object encoders: the ceilings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import IGNORE, Batch, Features, Slots


class OracleObjects(ObjectEncoder):
    """One slot per true object: chosen attributes, categories one-hot. Objects that are not visible are not valid.

    A vector is the quantities in the given order, then the categories in the given order; zero where not valid.

    Args:
        num_objects: K = M, the columns of `Batch.objects`.
        quantities: name -> width, for example {"position": 2, "scale": 1}.
        categories: name -> number of classes, for example {"shape": 4, "color": 4}.
    """

    requires = frozenset({"objects"})

    def __init__(self, num_objects: int, quantities: Mapping[str, int], categories: Mapping[str, int]) -> None:
        super().__init__()
        widths = [*quantities.values(), *categories.values()]
        if num_objects < 1 or not widths or min(widths) < 1:
            raise ValueError("OracleObjects needs at least one object and one attribute, each at least 1 wide.")
        self.num_slots = num_objects
        self.quantities = dict(quantities)
        self.categories = dict(categories)
        self.dim = sum(widths)

    def encode(self, batch: Batch) -> Slots:
        valid = _column(batch, "visible").bool()  # (B M)
        if valid.ndim != 2 or valid.shape[1] != self.num_slots:
            raise ValueError(f'"visible" must be (B, {self.num_slots}), got {tuple(valid.shape)}.')
        parts = [self._quantity(batch, name, width, valid) for name, width in self.quantities.items()]
        parts += [self._category(batch, name, classes, valid) for name, classes in self.categories.items()]
        return Slots(torch.cat(parts, dim=-1), None, valid)

    def _quantity(self, batch: Batch, name: str, width: int, valid: Tensor) -> Tensor:
        values = _column(batch, name).float()
        values = values.unsqueeze(-1) if values.ndim == 2 else values
        if values.shape != (*valid.shape, width):
            raise ValueError(f'"{name}" must be {(*valid.shape, width)}, got {tuple(values.shape)}.')
        values = values.masked_fill(~valid.unsqueeze(-1), 0)
        if not values.isfinite().all():
            raise ValueError(f'"{name}" of a visible object is not finite.')
        return values

    def _category(self, batch: Batch, name: str, classes: int, valid: Tensor) -> Tensor:
        labels = _column(batch, name)
        if labels.shape != valid.shape or labels.is_floating_point():
            raise ValueError(
                f'"{name}" must be {tuple(valid.shape)} integers, got {tuple(labels.shape)} {labels.dtype}.'
            )
        labels = labels.long().masked_fill(~valid, 0)
        if not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f'"{name}" must be in 0..{classes - 1}, got {int(labels.min())}..{int(labels.max())}.')
        return F.one_hot(labels, classes).float() * valid.unsqueeze(-1)


class OracleMasks(ObjectEncoder):
    """One slot per true object: the mean of an image encoder's tokens under the object's true mask.

    Masks (B K h w) are each cell's share of the object's pixels; a cell's tokens count by that share. The background
    and `IGNORE` pixels belong to no slot. Objects without a pixel are not valid, with a vector of zeros.

    encoder: images (B 3 H W) float -> `Features`, with `image_size`, `grid` and `dim`; is frozen in place.
    """

    requires = frozenset({"images", "segmentation"})

    def __init__(self, encoder: nn.Module, num_objects: int) -> None:
        super().__init__()
        if num_objects < 1:
            raise ValueError(f"num_objects must be at least 1, got {num_objects}.")
        self.encoder = frozen(encoder)
        self.image_size: tuple[int, int] = self.encoder.image_size
        self.num_slots = num_objects
        self.dim: int = self.encoder.dim

    def encode(self, batch: Batch) -> Slots:
        features: Features = self.encoder(images_at(batch.images, self.image_size))
        masks = self._masks(batch).to(features.tokens)
        masks = F.adaptive_avg_pool2d(masks, features.grid)  # (B K h w)
        weights = masks.flatten(2)
        mass = weights.sum(dim=-1, keepdim=True)
        vectors = weights @ features.tokens / mass.clamp_min(torch.finfo(mass.dtype).tiny)
        return Slots(vectors, masks, mass.squeeze(-1) > 0)

    def _masks(self, batch: Batch) -> Tensor:
        """(B K H W) 0 or 1."""
        labels = batch.segmentation
        if labels is None or labels.shape != (len(batch), *batch.images.shape[-2:]):
            raise ValueError(
                "OracleMasks needs the segmentation (B, H, W) of the images; the batch holds none that fits."
            )
        if not ((labels >= IGNORE) & (labels <= self.num_slots)).all():
            raise ValueError(f"segmentation labels must be in {IGNORE}..{self.num_slots}, got {int(labels.max())}.")
        objects = torch.arange(1, self.num_slots + 1, device=labels.device)
        return labels.unsqueeze(1) == objects.view(1, -1, 1, 1)


def _column(batch: Batch, name: str) -> Tensor:
    if name not in batch.objects:
        raise ValueError(f'The batch has no "{name}"; it has {", ".join(sorted(batch.objects)) or "no attributes"}.')
    return batch.objects[name]

"""Supervision by labels: which classes of objects are in the image, not where and not how many."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.objectives.base import ViTObjective
from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch


class ClassPresence(ViTObjective):
    """One linear layer on the pooled token says for every class whether a visible object has it; cross-entropy.

    The counterpart of image classification for scenes of several objects. Nothing in the labels tells two objects of
    one class from one object, so whatever tells them apart was not asked for.

    Args:
        vit: what is trained and kept.
        classes: C.
        attribute: which entry of `Batch.objects` (B M) is the class; "visible" says which objects count.
    """

    def __init__(self, vit: TrainableViT, classes: int, attribute: str = "class") -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}.")
        self.vit, self.classes, self.attribute = vit, classes, attribute
        self.head = nn.Linear(vit.vit.num_features, classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.head(self.vit.pooled(batch.images)).float()
        target = self.present(batch)
        right = (logits > 0) == target.bool()
        return {
            "loss": F.binary_cross_entropy_with_logits(logits, target),
            "images_all_right": right.all(dim=1).float().mean(),
        }

    def present(self, batch: Batch) -> Tensor:
        """(B C) float: 1 where at least one visible object is of the class.

        Raises:
            ValueError: no such attribute, or numbers outside 0..C - 1.
        """
        if self.attribute not in batch.objects:
            known = ", ".join(sorted(batch.objects)) or "no attributes"
            raise ValueError(f'ClassPresence needs "{self.attribute}" of the objects; the batch has {known}.')
        visible = batch.objects["visible"]
        category = batch.objects[self.attribute].long().masked_fill(~visible, 0)
        if not ((category >= 0) & (category < self.classes)).all():
            found = f"{int(category.min())}..{int(category.max())}"
            raise ValueError(f'"{self.attribute}" must be in 0..{self.classes - 1}, got {found}.')
        counts = torch.zeros(len(category), self.classes, device=category.device)
        return counts.scatter_add_(1, category, visible.float()).clamp(max=1)

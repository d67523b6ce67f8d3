"""The interface of objectives: a ViT, what is added to it for training, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch


class Objective(nn.Module, ABC):
    """Trains a ViT; everything else in it is thrown away afterwards.

    vit: the network that is kept.
    """

    vit: TrainableViT

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Images (B 3 H W) float in [0, 1] -> scalars by name: "loss", which is minimised, and figures for the log."""

    def pictures(self, images: Tensor) -> list[Tensor]:
        """Images (B 3 H W) -> further pictures of the same size in [0, 1] that show what the objective does."""
        return []

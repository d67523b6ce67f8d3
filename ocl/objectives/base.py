"""The interface of objectives: a network that is kept, what is added to it for training, and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ocl.objectives.vit import TrainableViT
from ocl.shapes import Batch, Features


class Objective(nn.Module, ABC):
    """Trains a network; everything else in it is thrown away afterwards."""

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """(H, W) of the images that it is made for."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Images (B 3 H W) float in [0, 1] -> scalars by name: "loss", which is minimised, and figures for the log."""

    def features(self, images: Tensor) -> Features | None:
        """Images (B 3 H W) -> the tokens of the network that is kept; None where it gives none."""
        return None

    def pictures(self, images: Tensor) -> list[Tensor]:
        """Images (B 3 H W) -> further pictures of the same size in [0, 1] that show what the objective does."""
        return []


class EncoderObjective(Objective):
    """Trains an encoder: images (B 3 H W) -> `Features`, or one vector of each image (B D).

    encoder: the network that is kept, with `image_size`, `dim` and, where it gives tokens, `grid`.
    """

    encoder: nn.Module

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.encoder.image_size  # type: ignore[misc]
        return int(height), int(width)

    def features(self, images: Tensor) -> Features | None:
        found = self.encoder(images)
        return found if isinstance(found, Features) else None


class ViTObjective(Objective):
    """Trains a ViT.

    vit: the network that is kept.
    """

    vit: TrainableViT

    @property
    def image_size(self) -> tuple[int, int]:
        return self.vit.image_size

    def features(self, images: Tensor) -> Features:
        tokens: Tensor = self.vit(images)
        return Features(tokens[:, self.vit.prefix_tokens :], self.vit.grid)

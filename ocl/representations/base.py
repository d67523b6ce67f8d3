"""The interface from images (or state) to `Slots`: frozen, deterministic and fingerprinted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.describe import describe_module, fingerprint
from ocl.shapes import Batch, Slots, images_as_float


class ObjectEncoder(nn.Module, ABC):
    """A frozen map from a `Batch` to `Slots`: deterministic, always in eval mode, no gradient.

    requires:  which fields of `Batch` it reads: "images", "segmentation", "objects".
    num_slots: K of its output; dim: D of its output.
    """

    requires: frozenset[str] = frozenset({"images"})
    num_slots: int
    dim: int

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @abstractmethod
    def encode(self, batch: Batch) -> Slots:
        """(B 3 H W) images -> vectors (B K D), masks (B K h w) or None, valid (B K)."""

    def describe(self) -> str:
        """Everything besides the weights that changes the output, as one canonical string (classes, sizes, seeds)."""
        return describe_module(self)

    @torch.no_grad()  # not inference_mode: heads are trained on these tensors
    def forward(self, batch: Batch) -> Slots:
        return self.encode(batch)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """64 hex digits: SHA-256 of `describe()` and every parameter and buffer. Equal fingerprint, equal output."""
        return fingerprint(self, self.describe())


def frozen(module: nn.Module) -> Any:
    """The module itself, in eval mode and without gradients; untyped, since modules say nothing of their attributes."""
    return module.eval().requires_grad_(False)


def images_at(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(B 3 H W) uint8 or float -> float32 (B 3 *size) in [0, 1]; other sizes are resized bilinearly with antialiasing,
    without regard to the aspect ratio."""
    images = images_as_float(images)
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)

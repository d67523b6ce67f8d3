"""Any timm vision transformer as a frozen encoder of patch tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ocl.encoders.frozen_vit import FrozenViT
from ocl.shapes import Features


class ViTEncoder(FrozenViT):
    """Patch tokens of one block of a timm ViT, without prefix tokens (CLS, registers) and without the final norm.

    Frozen: no gradient, always in eval mode. Position embeddings are interpolated to `image_size`; images are
    normalised with the mean and deviation that the checkpoint states.

    Args:
        name: timm model name, for example "vit_small_patch14_dinov2.lvd142m" or "hf-hub:owner/model".
        image_size: (H, W), multiples of the patch size.
        layer: block whose output is read; -1 is the last.
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local safetensors file to load instead.
        arguments: further arguments of the timm model, for example {"patch_size": 8, "depth": 6} of a ViT of our own.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layer: int = -1,
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, image_size, pretrained, weights, arguments)
        self.layer = self.block_number(layer)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """images (B 3 H W) float in [0, 1] -> tokens (B N D) in raster order."""
        return Features(self.block_outputs(images, [self.layer])[0], self.grid)

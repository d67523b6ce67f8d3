"""Any timm vision transformer as a frozen encoder of patch tokens."""

from __future__ import annotations

from typing import Any, Self

import timm
import torch
from torch import Tensor, nn

from ocl.shapes import Features


class ViTEncoder(nn.Module):
    """Patch tokens of one block of a timm ViT, without prefix tokens (CLS, registers) and without the final norm.

    Frozen: no gradient, always in eval mode. Position embeddings are interpolated to `image_size`; images are
    normalised with the mean and deviation that the checkpoint states.

    Args:
        name: timm model name, for example "vit_small_patch14_dinov2.lvd142m" or "hf-hub:owner/model".
        image_size: (H, W), multiples of the patch size.
        layer: block whose output is read; -1 is the last.
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local safetensors file to load instead.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layer: int = -1,
        pretrained: bool = True,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        overlay = {"file": weights} if weights is not None else None
        vit: Any = timm.create_model(
            name,
            pretrained=pretrained or weights is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            img_size=tuple(image_size),
        )
        if not hasattr(vit, "forward_intermediates") or not hasattr(vit, "patch_embed"):
            raise ValueError(f"{name} is not a vision transformer with patch tokens; choose a timm ViT.")
        depth = len(vit.blocks)
        if not -depth <= layer < depth:
            raise ValueError(f"{name} has blocks 0 to {depth - 1}, got layer {layer}.")
        self.vit = vit
        self.name, self.layer, self.image_size = name, layer % depth, (image_size[0], image_size[1])
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.dim: int = vit.embed_dim
        config = vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Features:
        """images (B 3 H W) float in [0, 1] -> tokens (B N D) in raster order."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images must be (B, 3, {self.image_size[0]}, {self.image_size[1]}), got {tuple(images.shape)}."
            )
        vit: Any = self.vit
        tokens: Tensor = vit.forward_intermediates(
            (images - self.mean) / self.std,
            indices=[self.layer],
            output_fmt="NLC",
            intermediates_only=True,
            stop_early=True,
        )[0]
        return Features(tokens, self.grid)

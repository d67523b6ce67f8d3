"""A timm vision transformer with gradients, from its own random start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.encoders.timm_vit import build_vit
from ocl.initialisation import glorot_


class TrainableViT(nn.Module):
    """A timm ViT to be trained; its weights load into `ViTEncoder` and `ViTLayers` with the same name and arguments.

    All objectives start alike, as the published code of masked autoencoders (arXiv 2111.06377) does: Glorot weights in
    the blocks, fixed sine-cosine positions and none for prefix tokens. The published DINO and supervised models learn
    their positions and start from a truncated normal of 0.02, which is small for narrow models.

    Args:
        name: timm model name; its mean and deviation normalise the images.
        image_size: (H, W), multiples of the patch size; positions are interpolated for images of other sizes.
        arguments: further arguments of the timm model, for example {"patch_size": 8, "depth": 6, "embed_dim": 96}.
        learn_positions: let positions be trained too.

    Raises:
        ValueError: not a timm ViT, one without absolute positions or with rotary ones too, or a width that is not a
            multiple of 4.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "vit_tiny_patch16_224",
        image_size: tuple[int, int] = (64, 64),
        arguments: dict[str, Any] | None = None,
        learn_positions: bool = False,
    ) -> None:
        super().__init__()
        size = (image_size[0], image_size[1])
        vit = build_vit(name, size, False, None, {**(arguments or {}), "dynamic_img_size": True})
        if getattr(vit, "pos_embed", None) is None or getattr(vit, "rope", None) is not None:
            raise ValueError(f"{name} has no absolute position embedding, or not that alone; choose another timm ViT.")
        self.vit = vit
        self.name, self.image_size, self.arguments = name, size, dict(arguments or {})
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.patch: tuple[int, int] = tuple(vit.patch_embed.patch_size)
        self.dim: int = vit.embed_dim
        self.prefix_tokens = int(vit.num_prefix_tokens)
        glorot_(vit.blocks)
        positions = sine_cosine_positions(self.grid, self.dim)
        prefix = vit.pos_embed.shape[1] - len(positions)  # some models give prefix tokens a position, some do not
        with torch.no_grad():
            vit.pos_embed.copy_(torch.cat([torch.zeros(prefix, self.dim), positions]))
        vit.pos_embed.requires_grad_(learn_positions)
        config = vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B 3 H W) in [0, 1] -> prefix tokens (B P D) and patch tokens (B N D) with their positions."""
        vit: Any = self.vit
        tokens = vit._pos_embed(vit.patch_embed((images - self.mean) / self.std))
        return tokens[:, : self.prefix_tokens], tokens[:, self.prefix_tokens :]

    def encode(self, tokens: Tensor) -> Tensor:
        """Any embedded tokens (B n D) -> (B n D) after all blocks and the final norm."""
        vit: Any = self.vit
        encoded: Tensor = vit.norm(vit.blocks(vit.norm_pre(tokens)))
        return encoded

    def forward(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) in [0, 1] -> (B P + N, D): prefix tokens, then patches in raster order."""
        return self.encode(torch.cat(self.embed(images), dim=1))

    def pooled(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) -> (B D), pooled as the model does for classification (the CLS token, the mean)."""
        vit: Any = self.vit
        pooled: Tensor = vit.forward_head(self(images), pre_logits=True)
        return pooled


def sine_cosine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """(h w, D) in raster order: the first half of the width for x, the second for y, sines before cosines.

    Frequencies run geometrically from 1 to 1 / 10000 per token, as in the published code of masked autoencoders.

    Raises:
        ValueError: a width that is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a width that is a multiple of 4, got {dim}.")
    frequency = 10_000 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (x, y)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1).float()

"""A timm vision transformer whose last blocks are trained beside a frozen copy of them (FT-DINOSAUR, SPOT)."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ocl.encoders.frozen_vit import FrozenViT
from ocl.feature_types import TunedFeatures


class TunedViT(FrozenViT):
    """Slots are made of the patch tokens of trained blocks; those of the same blocks as they were are to be predicted.

    Both kinds of blocks read the output of the frozen ones before them, which run once. So the target never moves and
    never learns to be easy. Tokens are those of `layer`, without prefix tokens and final norm, as in `ViTEncoder`, and
    the two kinds are equal before the first step. The frozen tokens are computed when they are asked for: by the loss,
    or by a decoder that reads them.

    SPOT's second stage trains blocks 8 and later of a ViT of 12 (Kakogeorgiou et al. 2024). FT-DINOSAUR trains the
    encoder (Didolkar et al. 2025): all blocks here; patch embedding and positions stay as they were. Whether it trains
    those too, and at which rate, is not known here (`ocl.training.Rate` gives the encoder its own).

    Args:
        name: timm model name, for example "vit_small_patch14_dinov2.lvd142m" or "hf-hub:owner/model".
        image_size: (H, W), multiples of the patch size; position embeddings are interpolated to it.
        layer: block whose output is read; -1 is the last.
        first_block: the first that is trained; 0 trains all.
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local file of weights to load instead.
        arguments: further arguments of the timm model, for example {"patch_size": 8, "depth": 6} of a ViT of our own.

    Raises:
        FileNotFoundError, ValueError: see `FrozenViT`; also no such block, one after `layer`, or another kind of
            ViT than timm's plain one, such as one with rotary positions.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layer: int = -1,
        first_block: int = 0,
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, image_size, pretrained, weights, arguments)
        vit: Any = self.vit
        self.layer, self.first_block = self.block_number(layer), self.block_number(first_block)
        if self.first_block > self.layer:
            raise ValueError(
                f"first_block {first_block} comes after layer {layer}, so nothing would be trained; lower it."
            )
        if not isinstance(vit, VisionTransformer):
            raise ValueError(f"the blocks of {name} need more than tokens; choose a ViT with absolute positions alone.")
        self.tuned = copy.deepcopy(self._frozen_blocks()).requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """The frozen part stays in eval mode whatever the caller's `mode`."""
        super().train(mode)
        self.tuned.train(mode)
        return self

    def forward(self, images: Tensor) -> TunedFeatures:
        """images (B 3 H W) float in [0, 1] -> tokens and tuned (B N D), both in raster order."""
        vit: Any = self.vit
        with torch.no_grad():
            hidden = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(self.normalised(images)))))
            hidden = vit.blocks[: self.first_block](hidden)

        @torch.no_grad()
        def frozen() -> Tensor:
            tokens: Tensor = self._frozen_blocks()(hidden)
            return tokens[:, self.prefix_tokens :]

        return TunedFeatures(self.tuned(hidden)[:, self.prefix_tokens :], frozen, self.grid)

    def _frozen_blocks(self) -> Any:
        """The blocks as they were from which on others are trained, up to the layer that is read."""
        blocks: Any = self.vit.blocks
        return blocks[self.first_block : self.layer + 1]

"""What every reader of a timm vision transformer shares: built once, frozen, with its own normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ocl.encoders.timm_vit import build_vit


class FrozenViT(nn.Module):
    """A timm ViT at one image size: no gradient, always in eval mode.

    Position embeddings are interpolated to `image_size`; images are normalised with the mean and deviation that the
    checkpoint states.

    Args:
        name: timm model name, for example "vit_small_patch14_dinov2.lvd142m" or "hf-hub:owner/model".
        image_size: (H, W), multiples of the patch size.
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local file of weights to load instead.
        arguments: further arguments of the timm model, for example {"patch_size": 8, "depth": 6} of a ViT of our own.

    Raises:
        FileNotFoundError: weights that are neither in the local cache nor to be had, or no such file.
        ValueError: an unknown model or one that is not a ViT, an image size that is not a multiple of the patch size,
            or a file of other weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int],
        pretrained: bool,
        weights: str | None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        vit = build_vit(name, (image_size[0], image_size[1]), pretrained, weights, arguments)
        self.vit = vit
        self.name, self.image_size = name, (image_size[0], image_size[1])
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

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before those of the patches (CLS, registers)."""
        return int(self.vit.num_prefix_tokens)

    def block_number(self, layer: int) -> int:
        """The block counted from the first, for a layer that may be counted from the last (-1).

        Raises:
            ValueError: no such block.
        """
        depth = len(self.vit.blocks)
        if not -depth <= layer < depth:
            raise ValueError(f"{self.name} has blocks 0 to {depth - 1}, got layer {layer}.")
        return layer % depth

    def block_outputs(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Tokens (B N D) after each of `blocks`, in their order, from one pass that ends at the last of them.

        images (B 3 H W) float in [0, 1]. Patch tokens in raster order, without prefix tokens and final norm.

        Raises:
            TypeError: images that are not floating; bytes would be read as 255 times too bright.
            ValueError: images of another size.
        """
        vit: Any = self.vit
        order = sorted(set(blocks))
        found = vit.forward_intermediates(
            self.normalised(images),
            indices=order,
            output_fmt="NLC",
            intermediates_only=True,
            stop_early=True,
        )
        tokens = dict(zip(order, found, strict=True))
        return [tokens[block] for block in blocks]

    def normalised(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) in [0, 1] as the model was trained on them; raises as `block_outputs` does."""
        if not images.is_floating_point():
            raise TypeError(f"images must be floating in [0, 1], got {images.dtype}; ocl.shapes.images_as_float helps.")
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(
                f"images must be (B, 3, {self.image_size[0]}, {self.image_size[1]}), got {tuple(images.shape)}."
            )
        return (images.to(self.mean.dtype) - self.mean) / self.std  # the model may have been cast to halves

"""Any set of layers of a timm vision transformer, and of parts inside them, from one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ocl.encoders.attention_reading import AttentionInputs, reading_attention
from ocl.encoders.frozen_vit import FrozenViT

PARTS = ("block", "query", "key", "value")


class ViTLayers(FrozenViT):
    """Patch tokens (L B N D) of L places in a timm ViT: every part of every layer, all layers of the first part first.

    "block" is the output of a block, as in `ViTEncoder`. "query", "key" and "value" are what the attention of a block
    multiplies, heads side by side (D = heads x d): after normalisation and rotary positions where the model has them;
    where it has not, they are the plain projections. A token is the same whichever other places are read. The pass
    ends at the last layer asked for.

    Models that were trained on masked images (timm's `*.mae`) see every patch, in order.

    Args:
        name: timm model name, for example "vit_small_patch14_dinov2.lvd142m" or "hf-hub:owner/model".
        image_size: (H, W), multiples of the patch size.
        layers: blocks from 0, negative ones from the last; None takes all.
        parts: among "block", "query", "key" and "value".
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local file of weights to load instead.
        arguments: further arguments of the timm model, for example {"patch_size": 8, "depth": 6} of a ViT of our own.

    Raises:
        FileNotFoundError, ValueError: see `FrozenViT`; also unknown, repeated or no layers or parts.
    """

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layers: Sequence[int] | None = None,
        parts: Sequence[str] = ("block",),
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(name, image_size, pretrained, weights, arguments)
        chosen = range(len(self.vit.blocks)) if layers is None else layers
        self.layers = tuple(self.block_number(layer) for layer in chosen)
        self.parts = tuple(parts)
        for argument, values in (("layers", self.layers), ("parts", self.parts)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{argument} must be at least one and different from each other, got {list(values)}.")
        if isinstance(parts, str) or not set(parts) <= set(PARTS):
            raise ValueError(f"parts must be a list from {', '.join(PARTS)}, got {parts!r}.")

    @property
    def places(self) -> tuple[str, ...]:
        """The names of the L places, in order: "block 0", "block 1", ..., "key 0", ..."""
        return tuple(f"{part} {layer}" for part in self.parts for layer in self.layers)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images (B 3 H W) float in [0, 1] -> tokens (L B N D) in raster order.

        Raises:
            ValueError: images of another size; a model whose queries, keys and values cannot be read, or are not D
                wide.
        """
        if self.parts == ("block",):
            return torch.stack(self.block_outputs(images, self.layers))
        return self._read(images)[0]

    @torch.no_grad()
    def with_attention(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B 3 H W) -> tokens (L B N D), and the attention (layers B heads N N) of each layer, patch to patch.

        Rows are queries. They sum to one minus the share that prefix tokens take.
        """
        tokens, inputs = self._read(images)
        return tokens, torch.stack([self._between_patches(one) for one in inputs])

    @torch.no_grad()
    def attention(self, images: Tensor) -> Iterator[Tensor]:
        """images (B 3 H W) -> the attention (B heads N N) of one layer after the other: all may not fit."""
        for inputs in self._read(images)[1]:
            yield self._between_patches(inputs)

    def _between_patches(self, inputs: AttentionInputs) -> Tensor:
        weights: Tensor = inputs.weights()[:, :, self.prefix_tokens :, self.prefix_tokens :]
        return weights

    def _read(self, images: Tensor) -> tuple[Tensor, list[AttentionInputs]]:
        with reading_attention(self.vit.blocks, self.layers) as reader:
            blocks = self.block_outputs(images, self.layers)
        total = self.prefix_tokens + self.grid[0] * self.grid[1]
        inputs = [reader.inputs(layer, total, self.name) for layer in self.layers]
        found = {"block": blocks, **{part: [self._patches(one, part) for one in inputs] for part in PARTS[1:]}}
        return torch.stack([tokens for part in self.parts for tokens in found[part]]), inputs

    def _patches(self, inputs: AttentionInputs, part: str) -> Tensor:
        """(B heads N d) with prefix tokens -> (B N D) without."""
        tokens: Tensor = getattr(inputs, part)[:, :, self.prefix_tokens :].transpose(1, 2).flatten(2)
        if part in self.parts and tokens.shape[-1] != self.dim:
            raise ValueError(
                f"The {part} tokens of {self.name} are {tokens.shape[-1]} wide and its blocks {self.dim}; read others."
            )
        return tokens

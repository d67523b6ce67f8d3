"""Features without objects as object encoders: patches, grid cells, pixels, whole images. Baselines and controls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ocl.encoders.cnn import CNNEncoder
from ocl.feature_types import grouping_tokens
from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import Batch, Features, Slots


class Tokens(ObjectEncoder):
    """Every token of an image encoder is a slot, in raster order: K = N. Masks are one-hot on the token grid.

    encoder: images (B 3 H W) float -> `Features`, with `image_size`, `grid` and `dim`; is frozen in place. Images of
    another size are resized to its own (bilinear, antialiased). Of an encoder that is tuned beside its frozen copy, the
    tuned tokens are read.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = frozen(encoder)
        self.image_size: tuple[int, int] = self.encoder.image_size
        self.grid: tuple[int, int] = self.encoder.grid
        self.num_slots = self.grid[0] * self.grid[1]
        self.dim: int = self.encoder.dim

    def encode(self, batch: Batch) -> Slots:
        features: Features = self.encoder(images_at(batch.images, self.image_size))
        tokens = grouping_tokens(features)
        return Slots.of(tokens, _one_hot_masks(tokens, features.grid))


class ViTPatches(Tokens):
    """Patch tokens of a timm ViT: the dense baseline. The arguments are those of `ViTEncoder`."""

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        layer: int = -1,
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        from ocl.encoders.vit import ViTEncoder  # here, since timm takes seconds to import

        super().__init__(ViTEncoder(name, image_size, layer, pretrained, weights, arguments))


class ViTPooled(ObjectEncoder):
    """One vector per image, pooled as the timm ViT pools for classification (CLS token, mean or attention): K = 1.

    The global baseline. Final norm included; the last block is read. No masks.
    """

    num_slots = 1

    def __init__(
        self,
        name: str,
        image_size: tuple[int, int] = (224, 224),
        pretrained: bool = True,
        weights: str | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from ocl.encoders.vit import ViTEncoder

        vit = ViTEncoder(name, image_size, pretrained=pretrained, weights=weights, arguments=arguments)
        self.encoder = frozen(vit)
        self.image_size: tuple[int, int] = self.encoder.image_size
        self.dim: int = self.encoder.vit.num_features

    def encode(self, batch: Batch) -> Slots:
        images = images_at(batch.images, self.image_size)
        vit = self.encoder.vit
        tokens = vit.forward_features((images - self.encoder.mean) / self.encoder.std)
        return Slots.of(vit.forward_head(tokens, pre_logits=True).unsqueeze(1))  # (B D) -> (B 1 D)


class RandomCNN(Tokens):
    """The control: a convolutional encoder as it is initialised from `seed`, one slot per grid cell.

    The default strides leave every fourth cell in each direction.
    """

    def __init__(
        self, image_size: tuple[int, int], dim: int = 64, strides: tuple[int, ...] = (1, 2, 2, 1), seed: int = 0
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = CNNEncoder(image_size, dim, strides=strides)
        super().__init__(encoder)
        self.seed = seed


class Pixels(ObjectEncoder):
    """The image itself, reduced to `grid` (h, w): one slot (red, green, blue, x, y) per pixel, all in [0, 1].

    x and y are the pixel's centre, x to the right and y down: slots are a set, so a pixel has to say where it is.
    """

    dim = 5

    def __init__(self, grid: tuple[int, int] = (16, 16)) -> None:
        super().__init__()
        if min(grid) < 1:
            raise ValueError(f"grid must be at least (1, 1), got {tuple(grid)}.")
        self.grid = (grid[0], grid[1])
        self.num_slots = grid[0] * grid[1]

    def encode(self, batch: Batch) -> Slots:
        colors = images_at(batch.images, self.grid).flatten(2).mT  # (B N 3)
        height, width = self.grid
        y, x = torch.meshgrid(
            (torch.arange(height, device=colors.device) + 0.5) / height,
            (torch.arange(width, device=colors.device) + 0.5) / width,
            indexing="ij",
        )
        places = torch.stack([x, y], dim=-1).flatten(0, 1)  # (N 2)
        vectors = torch.cat([colors, places.expand(len(colors), -1, -1)], dim=-1)
        return Slots.of(vectors, _one_hot_masks(vectors, self.grid))


def _one_hot_masks(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B N h w), a view of one (N h w) tensor: token n owns cell n."""
    cells: Tensor = torch.eye(tokens.shape[1], device=tokens.device).unflatten(1, grid)
    return cells.expand(len(tokens), -1, -1, -1)

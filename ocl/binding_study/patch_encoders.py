"""One door for whatever gives tokens of patches: layers of ViTs, slot models, segment encoders, random networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.describe import fingerprint
from ocl.encoders.vit_layers import ViTLayers
from ocl.representations.base import ObjectEncoder, frozen, images_at
from ocl.shapes import Batch, Slots


class PatchEncoder(nn.Module, ABC):
    """A frozen map from a `Batch` to tokens (L B N D) of N = h w patches in raster order, in L places of a model.

    places: names of the L places; grid: (h, w); dim: D.
    """

    places: tuple[str, ...]
    grid: tuple[int, int]
    dim: int

    @abstractmethod
    def encode(self, batch: Batch) -> Tensor:
        """(B 3 H W) images of any size -> tokens (L B N D) float."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits: equal fingerprint, equal tokens."""
        return fingerprint(self)

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        return self.encode(batch)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)


class LayerTokens(PatchEncoder):
    """Layers of a ViT. Images of another size are resized to the model's (bilinear, antialiased)."""

    def __init__(self, layers: ViTLayers) -> None:
        super().__init__()
        self.layers = layers
        self.places, self.grid, self.dim = layers.places, layers.grid, layers.dim

    def encode(self, batch: Batch) -> Tensor:
        tokens: Tensor = self.layers(images_at(batch.images, self.layers.image_size))
        return tokens


class ObjectTokens(PatchEncoder):
    """Any object encoder with masks, in one place ("slots"): a patch is the mean of the slot vectors by its shares.

    Where slots are tokens with a cell each (`ViTPatches`, `RandomCNN`, `Pixels`) on the same grid, the patches are the
    tokens themselves. A patch that no slot claims is zero.

    Args:
        encoder: is frozen in place.
        grid: (h, w); masks of another size are averaged over each patch. None takes the encoder's own `grid`.

    Raises:
        ValueError: no grid given and none known; on use, an encoder without masks.
    """

    places = ("slots",)

    def __init__(self, encoder: ObjectEncoder, grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        found = getattr(encoder, "grid", None) if grid is None else grid
        if found is None:
            raise ValueError(f"{type(encoder).__name__} has no grid of its own; give the (h, w) patches to read it at.")
        self.encoder: ObjectEncoder = frozen(encoder)
        self.grid, self.dim = (int(found[0]), int(found[1])), encoder.dim

    @property
    def fingerprint(self) -> str:
        return fingerprint(self, f"{type(self).__name__} {self.grid} of {self.encoder.fingerprint}")

    def encode(self, batch: Batch) -> Tensor:
        slots: Slots = self.encoder(batch)
        if slots.masks is None:
            raise ValueError(f"{type(self.encoder).__name__} gives no masks, so no patch knows its slots.")
        shares = F.adaptive_avg_pool2d(slots.masks.float(), self.grid).flatten(2)  # (B K N)
        shares = shares * slots.valid[:, :, None]
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        vectors = slots.vectors.masked_fill(~slots.valid[:, :, None], 0)
        return (shares.mT @ vectors).unsqueeze(0)


def patch_encoder(encoder: nn.Module, grid: tuple[int, int] | None = None) -> PatchEncoder:
    """The door itself: a `ViTLayers`, an `ObjectEncoder` (at `grid`) or a `PatchEncoder`, as a `PatchEncoder`.

    Raises:
        TypeError: anything else.
        ValueError: another grid than that of an encoder which has one of its own.
    """
    if isinstance(encoder, ObjectEncoder):
        return ObjectTokens(encoder, grid)
    if isinstance(encoder, ViTLayers):
        encoder = LayerTokens(encoder)
    if not isinstance(encoder, PatchEncoder):
        raise TypeError(f"{type(encoder).__name__} gives no tokens of patches; give a ViTLayers or an ObjectEncoder.")
    if grid is not None and tuple(grid) != encoder.grid:
        raise ValueError(f"{type(encoder).__name__} has a grid of {encoder.grid}; it cannot be read at {tuple(grid)}.")
    return encoder

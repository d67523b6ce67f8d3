"""Masked autoencoding: reconstruct the patches that were taken out of the image from those that were left."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.objectives.base import ViTObjective
from ocl.objectives.vit import TrainableViT, sine_cosine_positions
from ocl.shapes import Batch


class MaskedAutoencoder(ViTObjective):
    """MAE (He et al. 2022, arXiv 2111.06377).

    The encoder sees a random quarter of the patches and no mask token; a light decoder sees all places, with a learned
    token at the empty ones. Loss: squared error to the pixels of each hidden patch after that patch's own mean and
    deviation were taken out, averaged over hidden patches only.

    Args:
        vit: what is trained and kept.
        mask_ratio: share of the patches that is hidden. Published: 0.75.
        decoder_dim, decoder_depth, decoder_heads: published 512, 8 and 16 beside a ViT-Large; ours are for small ViTs.

    Raises:
        ValueError: a ratio that hides no patch or all of them.
    """

    def __init__(
        self,
        vit: TrainableViT,
        mask_ratio: float = 0.75,
        decoder_dim: int = 96,
        decoder_depth: int = 2,
        decoder_heads: int = 3,
    ) -> None:
        super().__init__()
        count = vit.grid[0] * vit.grid[1]
        self.kept = int(count * (1 - mask_ratio) + 1e-6)  # rounded down, but 10 * (1 - 0.9) is 1
        if not 0 < self.kept < count:
            raise ValueError(
                f"mask_ratio {mask_ratio} keeps {self.kept} of {count} patches; keep at least one, hide one."
            )
        self.vit, self.mask_ratio = vit, mask_ratio
        self.embed = nn.Linear(vit.dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim).normal_(std=0.02))
        self.blocks = nn.Sequential(*(Block(decoder_dim, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)))
        self.norm = nn.LayerNorm(decoder_dim)
        self.paint = nn.Linear(decoder_dim, 3 * vit.patch[0] * vit.patch[1])
        for part in (self.embed, self.blocks, self.paint):
            glorot_(part)
        positions = torch.cat(
            [torch.zeros(vit.prefix_tokens, decoder_dim), sine_cosine_positions(vit.grid, decoder_dim)]
        )
        self.register_buffer("positions", positions, persistent=False)

    positions: Tensor

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        prediction, hidden = self.reconstruct(batch.images)
        target = standardised(self.patches(batch.images))
        error = (prediction.float() - target).square().mean(dim=-1)  # (B N)
        return {"loss": (error * hidden).sum() / hidden.sum()}

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B 3 H W) -> standardised pixels (B N pp3) of every patch, and which were hidden (B N) bool."""
        prefix, patches = self.vit.embed(images)
        rank = random_ranks(patches.shape[:2], patches.device)
        kept = rank.argsort(dim=1)[:, : self.kept]
        hidden = rank >= self.kept
        encoded = self.vit.encode(torch.cat([prefix, take(patches, kept)], dim=1))
        return self._decode(encoded, rank), hidden

    def _decode(self, encoded: Tensor, rank: Tensor) -> Tensor:
        tokens = self.embed(encoded)  # (B P + kept, C)
        first = self.vit.prefix_tokens
        empty = self.mask_token.to(tokens.dtype).expand(len(tokens), rank.shape[1] - self.kept, -1)
        # The kept patches come first, in the order of their ranks: entry `rank` of the list belongs at the patch.
        everywhere = take(torch.cat([tokens[:, first:], empty], dim=1), rank)
        tokens = torch.cat([tokens[:, :first], everywhere], dim=1) + self.positions
        painted: Tensor = self.paint(self.norm(self.blocks(tokens)))[:, first:]
        return painted

    def patches(self, images: Tensor) -> Tensor:
        """Images (B 3 H W) -> normalised pixels (B N pp3) of every patch in raster order."""
        pixels = (images - self.vit.mean) / self.vit.std
        height, width = self.vit.patch
        cells = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # (B 3 h p w p)
        patches: Tensor = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return patches

    def unpatch(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`."""
        cells = patches.unflatten(1, self.vit.grid).unflatten(3, (*self.vit.patch, 3))  # (B h w p p 3)
        pixels: Tensor = cells.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)
        return pixels * self.vit.std + self.vit.mean

    def pictures(self, images: Tensor) -> list[Tensor]:
        """What the encoder saw, and that with the hidden patches painted in, in their true mean and deviation."""
        prediction, hidden = self.reconstruct(images)
        patches = self.patches(images)
        deviation, mean = torch.std_mean(patches, dim=-1, keepdim=True)
        hidden = hidden.unsqueeze(-1)
        seen = patches.masked_fill(hidden, 0)
        filled = torch.where(hidden, prediction.float() * deviation + mean, patches)
        return [self.unpatch(seen).clamp(0, 1), self.unpatch(filled).clamp(0, 1)]


def random_ranks(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """(B N) of the same shape: in every row the numbers 0..N - 1 in a random order."""
    return torch.rand(shape, device=device).argsort(dim=1)


def take(tokens: Tensor, places: Tensor) -> Tensor:
    """(B N D) and (B n) places -> (B n D)."""
    return tokens.gather(1, places.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def standardised(patches: Tensor) -> Tensor:
    """(B N c) -> (B N c) float32: each patch without its mean, over its deviation (unbiased; 1e-6 on the variance)."""
    variance, mean = torch.var_mean(patches.float(), dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()

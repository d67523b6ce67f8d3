"""Target features: what decides which features are alike. They carry no gradient, whatever they are made from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from ocl.feature_types import grouping_tokens
from ocl.hooks import AfterStep, ReadsModel
from ocl.shapes import Batch, Features, Output


class Target(nn.Module, ABC):
    """(`Output`, `Batch`) -> (B N G), one vector for every token that the grouping read."""

    @abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor: ...


class GroupingTokens(Target):
    """The tokens that the grouping read, projected or not."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return output.tokens.tokens.detach()


class EncoderTokens(Target):
    """The model's encoder before its projection: the backbone itself in models of frozen features."""

    def forward(self, output: Output, batch: Batch) -> Tensor:
        return output.features.tokens.detach()


class _Fixed(Target):
    """A target with weights of its own: no optimiser moves them, and they are always in eval mode."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


class FrozenEncoder(_Fixed):
    """Another encoder's tokens, brought to the token grid of the model (bilinear) where theirs differs.

    Args:
        encoder: images (B 3 H W) -> `Features`, for example `ocl.encoders.vit.ViTEncoder`.
        image_size: (H, W) to which images are resized for it (bilinear); None: as they are.
    """

    def __init__(self, encoder: nn.Module, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.image_size = image_size
        self.train(False)

    @torch.no_grad()
    def forward(self, output: Output, batch: Batch) -> Tensor:
        images = batch.images
        if self.image_size is not None:
            images = functional.interpolate(images, tuple(self.image_size), mode="bilinear", antialias=True)
        return on_grid(self.encoder(images), output.tokens.grid)


class MovingAverageEncoder(_Fixed, ReadsModel, AfterStep):
    """The tokens of a moving average of the model's encoder and projection.

    After every optimiser step theta_average += (1 - momentum) (theta - theta_average); buffers are copied. The average
    is saved with the training state, not with the model. An encoder that is never trained is not copied: only the
    projection behind it is averaged.

    Args:
        momentum: m, the share that is kept. Not the paper's, which was not found.
    """

    def __init__(self, momentum: float = 0.995) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}.")
        self.momentum = momentum
        self.average: nn.ModuleDict = nn.ModuleDict()
        self._online: tuple[tuple[nn.Module, nn.Module], ...] = ()  # in tuples: the model's parts, not of this module

    def attach(self, model: nn.Module) -> None:
        parts = {"encoder": model.encoder, "projection": model.projection}
        moving = {
            name: part
            for name, part in parts.items()
            if isinstance(part, nn.Module) and any(parameter.requires_grad for parameter in part.parameters())
        }
        if not moving:
            raise ValueError("MovingAverageEncoder follows a trained encoder or projection, and this model has none.")
        self.average = nn.ModuleDict({name: copy.deepcopy(part) for name, part in moving.items()})
        self.average.requires_grad_(False)
        self._online = tuple((self.average[name], part) for name, part in moving.items())
        self.train(False)

    @torch.no_grad()
    def after_step(self) -> None:
        for average, online in self._online:
            followed = [parameter.detach() for parameter in online.parameters()]
            torch._foreach_lerp_(list(average.parameters()), followed, 1 - self.momentum)
            for mine, theirs in zip(average.buffers(), online.buffers(), strict=True):
                mine.copy_(theirs)

    @torch.no_grad()
    def forward(self, output: Output, batch: Batch) -> Tensor:
        if not self._online:
            raise ValueError("MovingAverageEncoder follows a model; call attach(model) first, as training does.")
        features = self.average["encoder"](batch.images) if "encoder" in self.average else output.features
        tokens = grouping_tokens(features)
        if "projection" in self.average:
            tokens = self.average["projection"](tokens)
        return tokens


def on_grid(features: Features, grid: tuple[int, int]) -> Tensor:
    """Tokens (B N G) at another grid, bilinear (averaging where it is coarser)."""
    if features.grid == tuple(grid):
        return features.tokens
    maps = features.tokens.mT.unflatten(2, features.grid)  # (B G h w)
    return functional.interpolate(maps.float(), tuple(grid), mode="bilinear", antialias=True).flatten(2).mT

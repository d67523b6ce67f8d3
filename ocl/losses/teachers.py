"""Teachers: models whose decoder masks a student's attention is pulled to. They carry no gradient."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from ocl.hooks import AfterStep, ReadsModel
from ocl.shapes import Batch, Output


class Teacher(nn.Module, ABC):
    """(`Output` of the student, `Batch`) -> decoder masks (B K h w); always in eval mode, moved by no optimiser."""

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    @abstractmethod
    def forward(self, output: Output, batch: Batch) -> Tensor: ...


class FrozenTeacher(Teacher):
    """A model that was trained before, as in SPOT's second stage.

    Args:
        model: an `ocl.model.ObjectCentricModel`, encoder included.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model.requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(self, output: Output, batch: Batch) -> Tensor:
        masks: Tensor = self.model(batch.images, hints=batch.hints).decoded.masks
        return masks


class MovingAverageTeacher(Teacher, ReadsModel, AfterStep):
    """A moving average of the student itself, for one stage instead of two. Not the paper's.

    After every optimiser step theta_average += (1 - momentum) (theta - theta_average); buffers are copied. The average
    is saved with the training state, not with the model. An encoder that is never trained is not copied: its tokens are
    those that the student has.

    Args:
        momentum: the share that is kept.
    """

    def __init__(self, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}.")
        self.momentum = momentum
        self.average: Any = None
        self._online: tuple[nn.Module, ...] = ()  # in a tuple: the model is no part of this module

    def attach(self, model: nn.Module) -> None:
        encoder: Any = model.encoder
        fixed = not any(parameter.requires_grad for parameter in encoder.parameters())
        average = copy.deepcopy(model, {id(encoder): nn.Identity()} if fixed else {})
        self.average, self._online = average.requires_grad_(False), (model,)
        self.train(False)

    @torch.no_grad()
    def after_step(self) -> None:
        online = dict(self._online[0].named_parameters())
        mine = dict(self.average.named_parameters())
        torch._foreach_lerp_(list(mine.values()), [online[name].detach() for name in mine], 1 - self.momentum)
        buffers = dict(self._online[0].named_buffers())
        for name, buffer in self.average.named_buffers():
            buffer.copy_(buffers[name])

    @torch.no_grad()
    def forward(self, output: Output, batch: Batch) -> Tensor:
        if self.average is None:
            raise ValueError("MovingAverageTeacher follows a model; call attach(model) first, as training does.")
        known = isinstance(self.average.encoder, nn.Identity)
        features = output.features if known else self.average.encoder(batch.images)
        masks: Tensor = self.average.decode(self.average.group(features, hints=batch.hints)).masks
        return masks

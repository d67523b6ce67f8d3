"""What training offers to parts that need more than a forward pass; a part asks for it by inheriting."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class AfterStep(ABC):
    """A module whose `after_step` runs once after every optimiser step: schedules, moving averages."""

    @abstractmethod
    def after_step(self) -> None: ...


class ReadsModel(ABC):
    """A loss that is shown the model it trains, once, before training starts."""

    @abstractmethod
    def attach(self, model: nn.Module) -> None: ...


class NeutralAtStart:
    """A part that changes nothing until it is trained, so a checkpoint that a model starts from may lack it."""

"""Decoders that look at more than the slots."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn

from ocl.shapes import Decoded, Grouped


class GroupedDecoder(nn.Module, ABC):
    """A decoder that reads the whole grouping: its attention, or the tokens that are to be predicted.

    A plain decoder is called with slots (B K D) and keep (B K) or None; a model hands this kind a `Grouped` instead.
    """

    @abstractmethod
    def forward(self, grouped: Grouped) -> Decoded: ...

"""Whatever makes objects ends here: one interface from images (or state) to `Slots`, frozen and fingerprinted."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import nn

from ocl.shapes import Batch, Slots


class ObjectEncoder(nn.Module, ABC):
    """A frozen map from a `Batch` to `Slots`: deterministic, always in eval mode, no gradient.

    requires:  which fields of `Batch` it reads: "images", "segmentation", "objects".
    num_slots: K of its output; dim: D of its output.
    """

    requires: frozenset[str] = frozenset({"images"})
    num_slots: int
    dim: int

    @abstractmethod
    def encode(self, batch: Batch) -> Slots:
        """(B 3 H W) images -> vectors (B K D), masks (B K h w) or None, valid (B K)."""

    @abstractmethod
    def describe(self) -> str:
        """Everything besides the weights that changes the output, as one canonical string (class, sizes, seeds)."""

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Slots:
        return self.encode(batch)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """64 hex digits: SHA-256 of `describe()` and every parameter and buffer. Equal fingerprint, equal output."""
        digest = hashlib.sha256(self.describe().encode())
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

"""What a mask source gives, and what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MethodType, ModuleType
from typing import Protocol

import torch
from torch import Tensor, nn

from ocl.shapes import Batch


@dataclass
class Masks:
    """Segments of images, padded to K per image; they may overlap and need not cover the image.

    masks:  (B K H W) at the size of the images: bool, or float in [0, 1] for soft masks.
    scores: (B K) float32, the source's own confidence; 1 where it has none, 0 where not valid.
    valid:  (B K) bool; False marks padding, whose masks are empty. A valid mask has at least one pixel.
    """

    masks: Tensor
    scores: Tensor
    valid: Tensor

    def __post_init__(self) -> None:
        if self.masks.ndim != 4 or not (self.masks.dtype == torch.bool or self.masks.is_floating_point()):
            raise ValueError(
                f"masks must be (B, K, H, W), bool or floating, got {tuple(self.masks.shape)} {self.masks.dtype}."
            )
        expected = self.masks.shape[:2]
        if self.scores.shape != expected or self.valid.shape != expected or self.valid.dtype != torch.bool:
            found = f"scores {tuple(self.scores.shape)}, valid {tuple(self.valid.shape)} {self.valid.dtype}"
            raise ValueError(f"scores and valid (bool) must be {tuple(expected)} like the masks, got {found}.")
        if self.scores.isnan().any():  # it would be sorted above all others
            raise ValueError("masks must not have scores that are NaN; give 1 where a source has no confidence.")

    def __len__(self) -> int:
        return int(self.masks.shape[0])

    @staticmethod
    def of(masks: Tensor, scores: Tensor | None = None) -> Masks:
        """(B K H W) -> `Masks` with every mask valid that has a pixel."""
        valid = masks.flatten(2).any(dim=-1)
        confidence = torch.ones(valid.shape, device=masks.device) if scores is None else scores.float()
        return Masks(masks, confidence.masked_fill(~valid, 0), valid)

    def compact(self) -> Masks:
        """The valid masks of every image first, in their order; K is the most that any image has."""
        count = int(self.valid.sum(dim=1).max()) if len(self) else 0
        order = (~self.valid).byte().argsort(dim=1, stable=True)[:, :count]
        rows = torch.arange(len(self), device=order.device)[:, None]
        return Masks(self.masks[rows, order], self.scores[rows, order], self.valid[rows, order])


def required_by(source: object) -> frozenset[str]:
    """The fields of `Batch` that a source reads; "images" where it does not say."""
    return frozenset(getattr(source, "requires", {"images"}))


class MaskSource(Protocol):
    """Images to segments. A source reads what it needs of a batch: most the images, true masks the segmentation.

    One that reads more than images says so by `requires`, the names of the fields of `Batch`.
    """

    def __call__(self, batch: Batch) -> Masks:
        """images (B 3 H W) -> masks (B K H W), scores and valid (B K); K may differ from call to call and may be 0."""
        ...


def networks_of(part: object) -> list[nn.Module]:
    """The modules that a part is made of, itself included, each once; parts may refer to each other in circles.

    What is inside a module is not listed beside it, unless a part holds that itself too.
    """
    found, seen, waiting = [], set(), [part]
    while waiting:
        value = waiting.pop(0)
        if id(value) in seen or isinstance(value, type | ModuleType):
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, MethodType):
            waiting.append(value.__self__)
        elif isinstance(value, list | tuple):
            waiting += value
        else:
            waiting += (value if isinstance(value, Mapping) else getattr(value, "__dict__", {})).values()
    return found

"""Patches with their tokens and labels: what probes are fitted on and measured with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ocl.shapes import IGNORE


@dataclass
class Patches:
    """n patches of each of B images, the same ones in L layers.

    tokens:  (L B n D), halves or float32.
    objects: (B n) int64, which object the patch shows; equal numbers mean one object only within an image. `IGNORE`
             where unknown.
    classes: (B n) int64, the category of that object, `IGNORE` where unknown; None where the data set has none.
    places:  (B n 2) float, centres of the patches as (x, y) in patches; None where no measure asks for them.
    """

    tokens: Tensor
    objects: Tensor
    classes: Tensor | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tokens.ndim != 4 or not self.tokens.is_floating_point():
            raise ValueError(
                f"tokens must be (L, B, n, D) floating, got {tuple(self.tokens.shape)} {self.tokens.dtype}; "
                f"add a leading axis for one layer."
            )
        for name, values in (("objects", self.objects), ("classes", self.classes)):
            if values is not None and (values.shape != self.tokens.shape[1:3] or values.dtype != torch.int64):
                expected = tuple(self.tokens.shape[1:3])
                raise ValueError(f"{name} must be int64 {expected}, got {values.dtype} {tuple(values.shape)}.")
        if self.places is not None and self.places.shape != (*self.tokens.shape[1:3], 2):
            raise ValueError(
                f"places must be {(*self.tokens.shape[1:3], 2)} like the tokens, got {tuple(self.places.shape)}."
            )

    def __len__(self) -> int:
        """B, the number of images."""
        return int(self.tokens.shape[1])

    def take(self, images: Tensor) -> Patches:
        """The images of these indices (b), in this order."""
        classes = None if self.classes is None else self.classes[images]
        places = None if self.places is None else self.places[images]
        return Patches(self.tokens[:, images], self.objects[images], classes, places)

    def of_layers(self, layers: slice) -> Patches:
        """The same patches in some of the layers."""
        _ = self.same  # the copies share it once it is there
        few = copy.copy(self)
        few.tokens = self.tokens[layers]
        return few

    @cached_property
    def same(self) -> Tensor:
        """(B n n) bool: both patches show one object. True on the diagonal too, which `counted` leaves out."""
        return (self.objects[:, :, None] == self.objects[:, None]) & (self.objects != IGNORE)[:, :, None]


PairRule = Callable[[Patches], Tensor]
"""Which pairs count: patches -> (B n n) bool, symmetric, False on the diagonal."""


def distinct_pairs(patches: Patches) -> Tensor:
    """(B n n) bool: two different patches, both with a known object."""
    known = patches.objects != IGNORE
    pairs = known[:, :, None] & known[:, None]
    pairs.diagonal(dim1=1, dim2=2).fill_(False)
    return pairs

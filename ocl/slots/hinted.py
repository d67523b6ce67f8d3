"""First slots that are told where some of the objects are: by a point or by a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocl.initialisation import glorot_
from ocl.shapes import Features, Hints
from ocl.slots.initial import InitialSlots


class _HintedSlots(InitialSlots):
    """What points and boxes share; `coordinates` numbers say where an object is."""

    coordinates: int
    meaning: str

    def __init__(self, num_slots: int, dim: int, hidden_dim: int = 128, missing: InitialSlots | None = None) -> None:
        super().__init__(num_slots, dim)
        if missing is not None and (missing.num_slots, missing.dim) != (num_slots, dim):
            raise ValueError(
                f"missing hints start from slots of (K, D) = ({missing.num_slots}, {missing.dim}), the others from "
                f"({num_slots}, {dim}); they must agree."
            )
        self.hidden = nn.Linear(self.coordinates, hidden_dim)
        self.output = nn.Linear(hidden_dim, dim)
        glorot_(self)
        self.missing = missing

    def count(self, num_slots: int | None) -> int:
        return super().count(num_slots) if self.missing is None else self.missing.count(num_slots)

    def forward(
        self,
        features: Features,
        num_slots: int | None = None,
        noise: Tensor | None = None,
        hints: Hints | None = None,
    ) -> Tensor:
        """(B K D): slot m from hint m where that is known; `noise` replaces the draw of the others.

        Raises:
            ValueError: hints of another kind or number, or, on the CPU and outside a compiler, a known place that is
                not in the image. Elsewhere that check would make the host wait for the device: there such a slot is
                NaN, and so is the loss.
        """
        if self.missing is None:
            others = self.draw(self.output.weight, features, num_slots, noise)
        else:
            others = self.missing(features, num_slots, noise, hints)
        if hints is None:
            return others
        known = self._checked(hints, others.shape)
        places = hints.places.masked_fill(~known[..., None], 0)  # a NaN there would reach the gradient of the weights
        slots = self.output(F.relu(self.hidden(places))).masked_fill(~self._inside(places)[..., None], torch.nan)
        absent = others.shape[1] - slots.shape[1]
        known = F.pad(known, (0, absent))
        return torch.where(known[..., None], F.pad(slots, (0, 0, 0, absent)), others)

    def _inside(self, places: Tensor) -> Tensor:
        """(B M C) -> (B M) bool; NaN is not inside."""
        return ((places >= 0) & (places <= 1)).all(dim=-1)

    def _checked(self, hints: Hints, shape: torch.Size) -> Tensor:
        """`known` (B M), of hints that fit slots of this shape (B K D)."""
        places, known = hints.places, hints.known
        if places.ndim != 3 or places.shape[0] != shape[0] or places.shape[2] != self.coordinates:
            raise ValueError(
                f"{type(self).__name__} needs hints ({shape[0]}, M, {self.coordinates}), {self.meaning}, "
                f"got {tuple(places.shape)}."
            )
        if known.shape != places.shape[:2] or known.dtype != torch.bool:
            raise ValueError(f"known must be bool {tuple(places.shape[:2])}, got {known.dtype} {tuple(known.shape)}.")
        if places.shape[1] > shape[1]:
            raise ValueError(f"{places.shape[1]} hints cannot start {shape[1]} slots; use at least as many slots.")
        if places.device.type == "cpu" and not torch.compiler.is_compiling():
            outside = known & ~self._inside(places)
            if bool(outside.any()):
                image, row = outside.nonzero()[0].tolist()
                raise ValueError(
                    f"hint {row} of image {image} is known but lies at {places[image, row].tolist()}; "
                    f"it must be {self.meaning}, in [0, 1]."
                )
        return known


class PointSlots(_HintedSlots):
    """Slots that start from the centres of known objects: S0_m = MLP(x, y), the weak supervision "WSSA" that SLASH is
    compared with (Kim et al., CVPR 2023).

    Slot m belongs to hint m (`Hints.places` (B M 2), M <= K). The other slots, those of unknown hints and those beyond
    M, start from `missing`, published: independent N(0, I). Without any hints all slots do, so a model trained with
    points for a part of its images works without.

    Args:
        num_slots, dim: K and D.
        hidden_dim: of the MLP, which has one hidden layer here; the published one's size is not known.
        missing: the start of slots without a hint; None draws N(0, I).
    """

    coordinates = 2
    meaning = "(x, y) of a centre"


class BoxSlots(_HintedSlots):
    """Slots that start from the boxes of known objects, S0_m = MLP(x0, y0, x1, y1), as SAVi's do in a first frame
    (Kipf et al. 2022, arXiv 2111.12594); otherwise as `PointSlots`."""

    coordinates = 4
    meaning = "(x0, y0, x1, y1) with x0 <= x1 and y0 <= y1"

    def _inside(self, places: Tensor) -> Tensor:
        return super()._inside(places) & (places[..., :2] <= places[..., 2:]).all(dim=-1)

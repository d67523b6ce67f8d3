"""What a policy sees: standardised slot vectors with their validity, computed once per frame by a frozen encoder.

An observation is one float32 array (K, D + 1): D features and a last channel that is 1 for a valid slot and 0 for
padding. One plain array, rather than a dictionary of two, keeps the rollout buffer, the terminal observations and
the policy's input a single tensor, and two dimensions are never mistaken for an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots

Array = NDArray[np.float32]


def pack(vectors: Tensor, valid: Tensor) -> Tensor:
    """vectors (B K D), valid (B K) -> (B K D+1); padding becomes zero."""
    valid = valid.unsqueeze(-1).to(vectors.dtype)
    return torch.cat([vectors.masked_fill(valid == 0, 0.0), valid], dim=-1)


def unpack(observations: Tensor) -> tuple[Tensor, Tensor]:
    """(B K D+1) -> vectors (B K D), zero for padding whatever it held, and valid (B K) bool."""
    valid = observations[..., -1] > 0.5
    return observations[..., :-1].masked_fill(~valid.unsqueeze(-1), 0.0), valid


@dataclass(frozen=True)
class Standardisation:
    """(x - mean) / std per feature, the same for every slot: slots are a set, so a mean per place means nothing.

    Only for a pooling that knows slots by their places, the mean is that of the place. Most of the spread of a patch's
    or cell's feature may be its position embedding, the same in every image: beside it, what tells images apart would
    be a few hundredths. The scale stays that of the feature: a place that rarely changes is not blown up.

    mean: (D,) or, by place, (K, D) float32. std: (D,) float32. Computed once, then frozen: statistics that move during
    training would change what the policy's weights mean.
    """

    mean: Array
    std: Array

    def same_as(self, other: Standardisation) -> bool:
        return np.array_equal(self.mean, other.mean) and np.array_equal(self.std, other.std)

    @staticmethod
    def identity(dim: int) -> Standardisation:
        return Standardisation(np.zeros(dim, np.float32), np.ones(dim, np.float32))

    @staticmethod
    def of(vectors: Array, valid: NDArray[np.bool_], by_place: bool = False) -> Standardisation:
        """Statistics over the valid slots of vectors (n K D), valid (n K). Constant features keep scale one. By place,
        std is of what differs from the place's mean, and a place that is never valid has mean zero.

        Raises:
            ValueError: shapes that do not fit, or no valid slot at all.
        """
        if vectors.ndim != 3 or valid.shape != vectors.shape[:2]:
            raise ValueError(f"vectors must be (n, K, D) and valid (n, K), got {vectors.shape} and {valid.shape}.")
        if not valid.any():
            raise ValueError("no valid slot to standardise by: every entry of `valid` is False.")
        axes = 0 if by_place else (0, 1)
        counted = valid[:, :, None]  # (n K 1)
        mean = vectors.sum(axis=axes, dtype=np.float64, where=counted) / np.maximum(counted.sum(axis=axes), 1)
        square = vectors - mean
        square *= square
        std = np.sqrt(square.sum(axis=(0, 1), where=counted) / counted.sum())
        return Standardisation(mean.astype(np.float32), np.where(std > 1e-6, std, 1.0).astype(np.float32))


class Observer:
    """Frames -> observations, with the encoder kept out of every module: no policy, optimiser or checkpoint of the
    agent ever contains it, so nothing can re-initialise, train or save it by accident."""

    def __init__(self, encoder: ObjectEncoder, standardisation: Standardisation) -> None:
        mean, std = standardisation.mean.shape, standardisation.std.shape
        if mean not in ((encoder.dim,), (encoder.num_slots, encoder.dim)) or std != (encoder.dim,):
            raise ValueError(
                f"the standardisation is of {mean} and {std}, but the encoder gives {encoder.num_slots} slots of "
                f"{encoder.dim} features."
            )
        self.encoder = encoder.eval()
        self.standardisation = standardisation
        self.device = next((t.device for t in _tensors(encoder)), torch.device("cpu"))
        self._mean = torch.from_numpy(standardisation.mean).to(self.device)
        self._inverse_std = torch.from_numpy(1.0 / standardisation.std).to(self.device)

    @property
    def requires(self) -> frozenset[str]:
        """The fields of `Batch` that the encoder reads."""
        return self.encoder.requires

    @property
    def shape(self) -> tuple[int, int]:
        """(K, D + 1)"""
        return (self.encoder.num_slots, self.encoder.dim + 1)

    def slots(self, batch: Batch) -> Slots:
        """One call of the encoder.

        Raises:
            ValueError: the encoder returned another shape than it promised, or a value that is not finite.
        """
        slots: Slots = self.encoder(_to(batch, self.device))
        expected = (len(batch), self.encoder.num_slots, self.encoder.dim)
        if tuple(slots.vectors.shape) != expected:
            raise ValueError(f"the encoder returned vectors {tuple(slots.vectors.shape)}, expected {expected}.")
        return slots

    def of_slots(self, slots: Slots) -> Array:
        """-> (B K D+1) float32."""
        vectors = (slots.vectors.float() - self._mean) * self._inverse_std
        observations = pack(vectors, slots.valid).cpu().numpy()
        if not np.isfinite(observations).all():
            raise ValueError(
                "the encoder returned a valid slot with NaN or infinity; train it again or check its input."
            )
        return observations

    def __call__(self, batch: Batch) -> Array:
        return self.of_slots(self.slots(batch))


def concatenate(first: Batch, second: Batch) -> Batch:
    """The frames of both, with the same fields."""
    segmentation = None
    if first.segmentation is not None and second.segmentation is not None:
        segmentation = torch.cat([first.segmentation, second.segmentation])
    objects = {name: torch.cat([value, second.objects[name]]) for name, value in first.objects.items()}
    return Batch(torch.cat([first.images, second.images]), segmentation, objects)


def _to(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return replace(
        batch,
        images=batch.images.to(device),
        segmentation=None if batch.segmentation is None else batch.segmentation.to(device),
        objects={name: value.to(device) for name, value in batch.objects.items()},
    )


def _tensors(encoder: ObjectEncoder) -> Iterator[Tensor]:
    return chain(encoder.parameters(), encoder.buffers())

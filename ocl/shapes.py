"""The letters and the things that flow through the library.

Letters used in every docstring and at every line where a tensor changes shape:

    B batch    T time     N tokens   K slots    M true objects (an upper bound; padded)
    D width    H W image  h w mask or token grid   C classes   A actions

`Slots` is the waist: whatever makes objects ends there, whatever uses objects starts there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

IGNORE = -1
"""Segmentation label of pixels that no metric may count (unlabelled, boundary, overlap)."""


@dataclass
class Batch:
    """Images with whatever is known about the objects in them.

    images:       (B 3 H W) float32 in [0, 1], or uint8 in 0..255 (see `images_as_float`); or what a frozen encoder made
                  of them before, tokens (B 1 N D) of any floating type (see `ocl.data.stored_tokens`).
    segmentation: (B H W) int64 label map: 0 background, m + 1 the object in column m of `objects`, `IGNORE` unknown.
    objects:      true attributes, each (B M ...), padded to M columns. "visible" (B M) bool is always among them when
                  the dict is not empty; columns that are not visible hold arbitrary values. Integer tensors are
                  categories, floating tensors are quantities. The usual names: "position" (B M 2) as (x, y) in [0, 1]
                  with y pointing down the image, "shape", "color" (category) or "rgb" (B M 3), "scale", "angle".
    """

    images: Tensor
    segmentation: Tensor | None = None
    objects: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    @property
    def hints(self) -> Hints | None:
        """The "points" (B M 2) with "point_known", or "boxes" (B M 4) with "box_known", among `objects`; else None.

        Raises:
            ValueError: places without the word on which of them are known.
        """
        for places, known in (("points", "point_known"), ("boxes", "box_known")):
            if places in self.objects:
                if known not in self.objects:
                    raise ValueError(f'a batch with "{places}" must hold "{known}" (B M) too, bool: which are labels.')
                return Hints(self.objects[places], self.objects[known])
        return None


@dataclass
class Hints:
    """Weak labels that a model may be given beside the images: where some of the objects are.

    places: (B M 2) centres (x, y), or (B M 4) boxes (x0, y0, x1, y1), in [0, 1] with y pointing down the image.
    known:  (B M) bool; False where an object has no label, and its place is arbitrary.
    """

    places: Tensor
    known: Tensor


@dataclass
class Features:
    """tokens: (B N D) in raster order; grid: (h, w) with h * w = N."""

    tokens: Tensor
    grid: tuple[int, int]


@dataclass
class Slots:
    """A set of object vectors per image, in no particular order unless the encoder says otherwise.

    vectors: (B K D) float.
    masks:   (B K h w) float in [0, 1], soft assignment of image regions to slots; None where the encoder has none.
    valid:   (B K) bool; False marks padding, which consumers must ignore.
    notes:   what a grouping leaves for its own losses (predicted points, keep probabilities); consumers ignore it.
    """

    vectors: Tensor
    masks: Tensor | None
    valid: Tensor
    notes: dict[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(vectors: Tensor, masks: Tensor | None = None) -> Slots:
        """All K slots valid."""
        return Slots(vectors, masks, torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device))


@dataclass
class Decoded:
    """What a decoder predicts from slots.

    prediction: (B 3 H W) for pixel decoders, (B N D) for feature decoders.
    masks:      (B K h w), sums to one over K.
    """

    prediction: Tensor
    masks: Tensor


@dataclass
class Grouped:
    """Images up to their slots.

    features: the encoder's tokens (B N F).
    tokens:   what the grouping read: the projected features, or the features themselves.
    initial:  (B K D), where the iterations started.
    """

    features: Features
    tokens: Features
    initial: Tensor
    slots: Slots


@dataclass
class Output(Grouped):
    """One forward pass of an object-centric model: what losses and metrics may read."""

    decoded: Decoded


def images_as_float(images: Tensor) -> Tensor:
    """(B 3 H W) uint8 or float -> float32 in [0, 1].

    Raises:
        ValueError: not four dimensions or not three channels.
        TypeError: neither uint8 nor floating.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"images must be (B, 3, H, W), got {tuple(images.shape)}; add a batch axis or permute channels."
        )
    if images.dtype == torch.uint8:
        return images.float() / 255.0
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 in 0..255 or floating in [0, 1], got {images.dtype}.")
    return images.float()


def frames_as_float(images: Tensor) -> Tensor:
    """`images_as_float` of images (B 3 H W), or of clips (B T 3 H W). Stored tokens stay as they are."""
    if images.ndim >= 4 and images.shape[-3] == 1 and images.is_floating_point():
        return images
    if images.ndim != 5:
        return images_as_float(images)
    clips: Tensor = images_as_float(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return clips


def softmax_over_slots(logits: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B K ...) -> (B K ...): competition over K, in float32 at least: halves would round a starved slot to 0.

    `keep` (B K) in [0, 1] weighs the slots, keep_k exp(l_k) / sum over j of keep_j exp(l_j), with its gradient; a slot
    with keep 0 gets nothing. At least one slot of an image must be kept.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if keep is None:
        return logits.softmax(dim=1, dtype=dtype)
    weights = keep.to(dtype).view(*keep.shape, *(1 for _ in logits.shape[2:]))
    # The largest logit of the kept slots is taken off, so that a dropped slot cannot starve them; the bound keeps the
    # dropped slot's own gradient finite.
    logits = logits.to(dtype)
    highest = logits.detach().masked_fill(weights <= 0, -torch.inf).amax(dim=1, keepdim=True)
    shares = weights * (logits - highest).clamp_max(20).exp()
    return shares / shares.sum(dim=1, keepdim=True)

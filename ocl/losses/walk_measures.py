"""Do walks return home? Per-image measures of what the cycle losses work on, for models trained with and without them.

Each is (`Output`, `Batch`) -> (B) float64, NaN where undefined. The walk is `Walk()` at its defaults unless another is
given, so that models trained with other losses are measured by the same walk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ocl.losses.cycle import slot_log_return
from ocl.losses.walks import Walk
from ocl.shapes import IGNORE, Batch, Output


@torch.no_grad()
def slot_return(output: Output, batch: Batch, walk: Walk | None = None) -> Tensor:
    """Probability that a walk slot -> feature -> slot ends where it began: the mean of P_ii over slots."""
    transitions = (walk or Walk())(output, batch)
    returned = slot_log_return(transitions).exp().double()
    mean: Tensor = (returned * transitions.kept).sum(dim=1) / transitions.kept.sum(dim=1)
    return mean.masked_fill(~transitions.counted, torch.nan)


@torch.no_grad()
def object_return(output: Output, batch: Batch, walk: Walk | None = None) -> Tensor:
    """Probability that a walk feature -> slot -> feature ends in the object where it began: a mean over features.

    The object of a feature is the most frequent true label in its cell of the token grid; the background counts as one
    object. Features whose label is unknown are no starts and no homes.

    Raises:
        ValueError: the batch has no segmentation.
    """
    if batch.segmentation is None:
        raise ValueError("object_return needs images with a true segmentation.")
    home = _objects(batch.segmentation, output.tokens.grid)  # (B N M + 1)
    transitions = (walk or Walk())(output, batch)
    reached = transitions.to_features.double() @ home  # (B K M + 1): what a slot gives to each object
    returned = ((transitions.to_slots.double().mT @ reached) * home).sum(dim=(1, 2))
    starts = home.sum(dim=(1, 2))
    share: Tensor = returned / starts
    return share.masked_fill(~transitions.counted, torch.nan)


def _objects(segmentation: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B H W) labels -> (B N M + 1) of 0 and 1, all 0 where the label is unknown."""
    pixels = functional.one_hot((segmentation - IGNORE).long()).movedim(-1, 1).float()  # (B M + 2 H W)
    cells = functional.interpolate(pixels, grid, mode="area").flatten(2)
    labels = cells.argmax(dim=1)
    return functional.one_hot(labels, pixels.shape[1])[:, :, 1:].double()

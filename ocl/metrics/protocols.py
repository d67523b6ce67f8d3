"""Evaluation protocols of object discovery by name: figures of two protocols must not be compared.

A protocol says how masks are turned into segments and what counts. The papers' protocols share most of that here: soft
masks are upsampled bilinearly to the size of the segmentation, then argmax; pixels labelled `IGNORE` are dropped; every
image is measured by itself, in float64, and images where a measure is undefined are left out of its mean.

What else belongs to a published protocol is a property of the data set, and a figure is comparable only where the data
set follows it too: image and segmentation size (classic: the image's own; A: masks at 320 px for inputs of 224; C: 256
resized to 224), the split, nearest-neighbour resizing of the segmentation, and which pixels are unlabelled (overlapping
instances, crowds, VOC's boundary: label them `IGNORE`). So does the source of the masks: here always the decoder's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ocl.metrics.clustering import adjusted_rand_index, foreground_ari
from ocl.metrics.image_mean import PerImage
from ocl.metrics.labels import contingency
from ocl.metrics.overlap import corloc, mean_best_overlap, mean_iou
from ocl.metrics.panoptic import panoptic_quality


@dataclass(frozen=True)
class Protocol:
    """What counts.

    name: printed beside every figure.
    counts: the rule in one sentence, printed below every table.
    background: the true background is one of the segments of mean_best_overlap and mean_iou.
    """

    name: str
    counts: str
    background: bool

    def measures(self, masks: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> dict[str, PerImage]:
        """Per-image values by name; see `ocl.metrics.labels.contingency` for the arguments."""
        table = contingency(masks, segmentation, valid)
        return {
            "ari": adjusted_rand_index(table),
            "foreground_ari": foreground_ari(table),
            "mean_best_overlap": mean_best_overlap(table, self.background),
            "mean_iou": mean_iou(table, self.background),
            "corloc": corloc(table),
            "panoptic_quality": panoptic_quality(table),
        }


CLASSIC = Protocol(
    "classic",
    "FG-ARI over object pixels, ARI over all pixels; mBO and mIoU over objects, without the background.",
    background=False,
)
"""Slot Attention, MONet and IODINE on CLEVR6, Multi-dSprites and Tetrominoes, which publish FG-ARI alone. The sources
say nothing of overlaps: leaving the background out of them is our choice."""

DINOSAUR = Protocol(
    "dinosaur",
    "mBO and mIoU over objects, without the background; FG-ARI over object pixels.",
    background=False,
)
"""Block A, DINOSAUR and SPOT. It counts as `CLASSIC` does; only the data set differs (masks at 320 px)."""

FT_DINOSAUR = Protocol(
    "ft_dinosaur",
    "FG-ARI over object pixels; mBO over objects, without the background; ARI and PQ over all segments of a panoptic "
    "map, without classes.",
    background=False,
)
"""Block B, FT-DINOSAUR. Its ARI and PQ need a panoptic segmentation from the data set. Inferred, not stated by the
source: that mBO leaves the background out and that PQ ignores classes."""

GENERA1Z = Protocol(
    "genera1z",
    "ARI over all pixels, FG-ARI over object pixels; mBO and mIoU with the background as one more segment.",
    background=True,
)
"""Block C, the code base of VVO, DIAS and SmoothSA (and MetaSlot). Its ARI overflows 64-bit integers on large images;
ours is exact, so published ARI values above 256 x 256 pixels, and of video, are not reproduced."""

PROTOCOLS = {protocol.name: protocol for protocol in (CLASSIC, DINOSAUR, FT_DINOSAUR, GENERA1Z)}


def protocol_named(name: str) -> Protocol:
    """Raises ValueError, with the known names, for another one."""
    if name not in PROTOCOLS:
        raise ValueError(f"there is no evaluation protocol {name!r}; it is one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]

"""The five segmentation metrics that training and validation report, from one contingency table per batch."""

from __future__ import annotations

from torch import Tensor

from ocl.metrics.clustering import adjusted_rand_index, foreground_ari
from ocl.metrics.image_mean import ImageMeans, PerImage
from ocl.metrics.labels import contingency
from ocl.metrics.overlap import corloc, mean_best_overlap, mean_iou


def segmentation_measures(
    prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None, background: bool = False
) -> dict[str, PerImage]:
    """Per-image values of `SegmentationMetrics`; see there for the names and `contingency` for the arguments."""
    table = contingency(prediction, segmentation, valid)
    return {
        "ari": adjusted_rand_index(table),
        "foreground_ari": foreground_ari(table),
        "mean_best_overlap": mean_best_overlap(table, background),
        "mean_iou": mean_iou(table, background),
        "corloc": corloc(table),
    }


class SegmentationMetrics(ImageMeans):
    """Means over images of ari, foreground_ari, mean_best_overlap, mean_iou and corloc (on masks).

    Pixels are read once per batch. Soft masks are upsampled to the size of the segmentation before argmax; each measure
    leaves out the images where it is undefined and is NaN where none is left.

    Args:
        background: count the true background as a segment in the two overlap means (see `ocl.metrics.overlap`).
    """

    names = ("ari", "foreground_ari", "mean_best_overlap", "mean_iou", "corloc")

    def __init__(self, background: bool = False) -> None:
        super().__init__(len(self.names))
        self.background = background

    def update(self, masks: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> None:
        """Add B images: soft masks (B K h w) or label maps (B H W), against segmentation (B H W)."""
        measures = segmentation_measures(masks, segmentation, valid, self.background)
        self.add([measures[name] for name in self.names])

    def compute(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.means(), strict=True))

"""Segmentation of whole clips: an object that changes its slot on the way is no longer found.

Every measure of `ocl.metrics` takes clips, (B T K h w) or (B T H W): the frames count as one large image, in which a
slot is one segment and an object one label (video FG-ARI, video mBO). What is added here counts how often objects
change hands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ocl.metrics.clustering import foreground_ari
from ocl.metrics.image_mean import ImageMeans, PerImage, mean_over
from ocl.metrics.labels import contingency
from ocl.metrics.overlap import mean_best_overlap


def identity_switches(
    prediction: Tensor, segmentation: Tensor, valid: Tensor | None = None, least_pixels: int = 1
) -> PerImage:
    """Slot-identity switches per object: how often the slot that owns an object is not the one that owned it before.

    In a frame, an object belongs to the slot that claims most of its pixels (no slot, where most are unclaimed; the
    lowest on a tie). Frames where it is hidden are passed over, so one that comes back in another slot has switched.
    The mean is taken over the objects that are seen in two frames or more; clips without any do not count. 0 is best.

    Args:
        prediction: (B T K h w) soft masks or (B T H W) label maps.
        segmentation: (B T H W) integer, with labels that persist through the clip.
        valid: (B T K) bool; only with soft masks.
        least_pixels: an object with fewer in a frame is taken for hidden there.

    Raises:
        ValueError: no clips, or shapes that do not fit; see `contingency`.
    """
    if segmentation.ndim != 4 or prediction.ndim not in (4, 5):
        raise ValueError(
            f"identity switches are counted in clips (B, T, H, W), got {tuple(segmentation.shape)} and masks "
            f"{tuple(prediction.shape)}."
        )
    clips, frames = segmentation.shape[:2]
    table = contingency(
        prediction.flatten(0, 1), segmentation.flatten(0, 1), None if valid is None else valid.flatten(0, 1)
    )
    table = table[:, 1:].unflatten(0, (clips, frames))  # (B T M P) objects only
    owner, seen = table.argmax(dim=3), table.sum(3) >= least_pixels  # (B T M)
    time = torch.arange(frames, device=seen.device)[:, None].expand_as(seen)
    last = time.masked_fill(~seen, -1).cummax(dim=1).values[:, :-1]  # when it was last seen, before each later frame
    before = owner.gather(1, last.clamp(min=0))
    switched = seen[:, 1:] & (last >= 0) & (owner[:, 1:] != before)
    followed = seen.sum(1) >= 2  # (B M)
    return PerImage(mean_over(switched.sum(1).double(), followed), followed.any(1))


class VideoMetrics(ImageMeans):
    """Means over clips of foreground_ari and mean_best_overlap of the whole clip, and of identity_switches per object.

    Args:
        least_pixels: see `identity_switches`.
    """

    names = ("foreground_ari", "mean_best_overlap", "identity_switches")

    def __init__(self, least_pixels: int = 1) -> None:
        super().__init__(len(self.names))
        self.least_pixels = least_pixels

    def update(self, masks: Tensor, segmentation: Tensor, valid: Tensor | None = None) -> None:
        """Add B clips: soft masks (B T K h w) or label maps (B T H W), against segmentation (B T H W)."""
        table = contingency(masks, segmentation, valid)
        switches = identity_switches(masks, segmentation, valid, self.least_pixels)
        self.add([foreground_ari(table), mean_best_overlap(table), switches])

    def compute(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.means(), strict=True))

"""The automatic generator against segment-anything's own at the size of the smallest published model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator

from ocl.masks.sam import AutomaticMaskGenerator, random_sam


@pytest.mark.slow
def test_same_masks_with_vit_b() -> None:
    """Float32; a pixel may differ where its logit is at the threshold up to rounding."""
    model = random_sam()
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC))
    options = {"points_per_side": 3, "pred_iou_thresh": 0.85, "stability_score_thresh": 0.01, "box_nms_thresh": 0.99}
    package = SamAutomaticMaskGenerator(model, **options).generate(image)
    ours = AutomaticMaskGenerator(model, **options).generate(image)  # type: ignore[arg-type]
    assert len(ours) == len(package) >= 3
    for mine, theirs in zip(ours, package, strict=True):
        assert mine["point_coords"] == theirs["point_coords"]
        assert mine["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-5)
        assert (mine["segmentation"] != theirs["segmentation"]).mean() < 1e-4

"""The automatic generator against segment-anything's own, in float64: there rounding moves nothing over a threshold."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from skimage.measure import label
from torch import Tensor, nn

from ocl.masks.sam import AutomaticMaskGenerator, SamPrompts, random_sam
from ocl.shapes import Batch

OPTIONS = {"points_per_side": 8, "points_per_batch": 20, "stability_score_thresh": 0.15, "box_nms_thresh": 0.98}


def picture(height: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


class Single(nn.Module):
    """torchvision's suppression wants scores of the boxes' type."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(tokens)
        return result.float()


@pytest.fixture(scope="module")
def small() -> Any:
    return random_sam(0, image_size=256, width=64, depth=2, heads=2, global_layers=(1,), window=6)


@pytest.fixture(scope="module")
def double() -> Any:
    """The small model in float64; the prompt encoder casts to float32 in the package."""
    model: Any = random_sam(0, image_size=256, width=64, depth=2, heads=2, global_layers=(1,), window=6).double()
    model.prompt_encoder.float()
    model.mask_decoder.iou_prediction_head = Single(model.mask_decoder.iou_prediction_head)
    return model


def assert_same(ours: list[dict[str, Any]], package: list[dict[str, Any]], least: int) -> None:
    assert len(ours) == len(package) >= least
    for mine, theirs in zip(ours, package, strict=True):
        assert list(mine) == list(theirs)
        assert type(mine["segmentation"]) is type(theirs["segmentation"])
        np.testing.assert_equal(mine, {**theirs, "area": int(theirs["area"])})


@pytest.mark.parametrize(
    ("size", "mode"),
    [
        ((121, 161), "binary_mask"),
        ((121, 161), "coco_rle"),
        ((170, 96), "uncompressed_rle"),
        ((300, 310), "binary_mask"),  # larger than what the model sees
    ],
)
def test_masks_are_the_package_s(double: Any, size: tuple[int, int], mode: Any) -> None:
    options: Any = {**OPTIONS, "output_mode": mode}
    image = picture(*size)
    package = SamAutomaticMaskGenerator(double, **options).generate(image)
    assert_same(AutomaticMaskGenerator(double, **options).generate(image), package, least=8)


@pytest.mark.parametrize(
    ("changed", "least"),
    [
        ({"stability_score_thresh": 0.0}, 40),  # with empty masks
        ({"pred_iou_thresh": 0.0, "stability_score_thresh": 0.4}, 3),
        ({"pred_iou_thresh": 0.93}, 1),
        ({"stability_score_offset": 0.2, "box_nms_thresh": 0.8}, 3),
        ({"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.95}, 8),
        ({"crop_n_layers": 2, "points_per_side": 3, "crop_overlap_ratio": 0.2, "crop_nms_thresh": 0.99}, 5),
        ({"points_per_side": None, "point_grids": [np.random.default_rng(1).random((30, 2))]}, 5),
    ],
    ids=["unstable", "any quality", "best", "offset", "crops", "two layers of crops", "own points"],
)
def test_every_filter_is_the_package_s(double: Any, changed: dict[str, Any], least: int) -> None:
    options: Any = {**OPTIONS, **changed}
    image = picture(121, 161)
    package = SamAutomaticMaskGenerator(double, **options).generate(image)
    ours = AutomaticMaskGenerator(double, **options).generate(image)
    assert_same(ours, package, least)
    if options.get("crop_n_layers"):
        assert len({tuple(mask["crop_box"]) for mask in ours}) > 1


def test_small_regions_are_the_package_s(double: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one function of OpenCV that the package calls is made of scikit-image here."""

    def components(mask: NDArray[np.uint8], connectivity: int) -> tuple[int, Any, NDArray[np.int64], None]:
        assert connectivity == 8
        regions, count = label(mask, connectivity=2, return_num=True)
        return count + 1, regions, np.bincount(regions.ravel(), minlength=count + 1)[:, None], None

    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(connectedComponentsWithStats=components))
    image = picture(121, 161)
    plain = AutomaticMaskGenerator(double, **OPTIONS).generate(image)
    for area in (30, 10**6):
        options: Any = {**OPTIONS, "min_mask_region_area": area}
        ours = AutomaticMaskGenerator(double, **options).generate(image)
        assert_same(ours, SamAutomaticMaskGenerator(double, **options).generate(image), least=1)
        assert [mask["area"] for mask in ours] != [mask["area"] for mask in plain]


def test_float32_finds_the_same_set(small: Any) -> None:
    """Same masks in float32; a pixel may differ where its logit is at the threshold up to rounding."""
    image = picture(121, 161)
    package = SamAutomaticMaskGenerator(small, **OPTIONS).generate(image)
    ours = AutomaticMaskGenerator(small, **OPTIONS).generate(image)
    assert len(ours) == len(package) >= 8
    assert [mask["point_coords"] for mask in ours] == [mask["point_coords"] for mask in package]
    for mine, theirs in zip(ours, package, strict=True):
        assert mine["predicted_iou"] == pytest.approx(theirs["predicted_iou"], abs=1e-5)
        assert (mine["segmentation"] != theirs["segmentation"]).mean() < 1e-4


def test_tensors_are_the_masks_of_generate(small: Any) -> None:
    generator = AutomaticMaskGenerator(small, **{**OPTIONS, "stability_score_thresh": 0.0})  # type: ignore[arg-type]
    images = [picture(80, 100), picture(80, 100)[::-1].copy()]
    masks = generator(Batch(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)))
    assert masks.masks.dtype == torch.bool
    assert masks.masks.shape[2:] == (80, 100)
    counts = []
    for image, found, scores, valid in zip(images, masks.masks, masks.scores, masks.valid, strict=True):
        expected = [mask for mask in generator.generate(image) if mask["area"] > 0]
        counts.append(len(expected))
        assert valid.tolist() == [True] * len(expected) + [False] * (len(valid) - len(expected))
        assert torch.equal(found[valid], torch.from_numpy(np.stack([mask["segmentation"] for mask in expected])))
        assert scores[valid].tolist() == [mask["predicted_iou"] for mask in expected]
    assert max(counts) == masks.masks.shape[1]
    assert min(counts) > 0


def test_images_encoded_together_keep_their_masks(double: Any) -> None:
    images = torch.stack([torch.from_numpy(np.roll(picture(121, 161), shift, axis=0)) for shift in (0, 40, 80)])
    batch = Batch(images.permute(0, 3, 1, 2))
    options = {**OPTIONS, "points_per_side": 4, "crop_n_layers": 1}
    encoded: list[int] = []

    def calls(module: nn.Module, inputs: tuple[Tensor]) -> None:
        encoded.append(len(inputs[0]))

    handle = double.image_encoder.patch_embed.register_forward_pre_hook(calls)
    one, several = (AutomaticMaskGenerator(double, **options, images_per_batch=n)(batch) for n in (1, 4))
    handle.remove()
    assert encoded == [1] * 15 + [4, 4, 4, 3]  # three images and four crops of each
    assert torch.equal(one.masks, several.masks)
    assert one.valid.sum() > 10
    torch.testing.assert_close(one.scores, several.scores)
    places = torch.rand(3, 2, 2, dtype=torch.float64)
    hints = {"points": places, "point_known": torch.tensor([[True, True], [False, False], [True, False]])}
    asked = Batch(batch.images, objects=hints)
    apart, together = (SamPrompts(double, images_per_batch=n)(asked) for n in (1, 2))
    assert torch.equal(apart.masks, together.masks)
    assert apart.valid.tolist() == hints["point_known"].tolist()


def test_floating_images_are_those_of_uint8(small: Any) -> None:
    generator = AutomaticMaskGenerator(small, **OPTIONS)  # type: ignore[arg-type]
    image = torch.from_numpy(picture(80, 100)).permute(2, 0, 1)[None]
    assert torch.equal(generator(Batch(image)).masks, generator(Batch(image.float() / 255)).masks)
    with pytest.raises(ValueError, match="finite"):
        generator(Batch(torch.full((1, 3, 8, 8), torch.nan)))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        generator(Batch(image[0]))


def test_nothing_above_the_threshold_is_no_mask(small: Any) -> None:
    for layers in (0, 1):
        generator = AutomaticMaskGenerator(small, 4, pred_iou_thresh=9.0, crop_n_layers=layers, min_mask_region_area=9)
        assert generator.generate(picture(60, 80)) == []
        assert generator(Batch(torch.zeros(2, 3, 60, 80))).masks.shape == (2, 0, 60, 80)


def test_wrong_images_are_refused(small: Any) -> None:
    generator = AutomaticMaskGenerator(small, 2)
    for wrong, error, words in [
        (np.zeros((8, 8), np.uint8), ValueError, "RGB"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, "RGB"),
        (np.zeros((8, 0, 3), np.uint8), ValueError, "RGB"),
        (np.zeros((8, 8, 3), np.float32), TypeError, "uint8"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), TypeError, "NumPy"),
    ]:
        with pytest.raises(error, match=words):
            generator.generate(wrong)  # type: ignore[arg-type]


def test_wrong_arguments_are_refused(small: Any) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"output_mode": "png"}, "output_mode"),
        ({"points_per_side": None}, "Exactly one"),
        ({"point_grids": [np.zeros((1, 2))]}, "Exactly one"),
        ({"points_per_side": None, "point_grids": [np.zeros((1, 2))], "crop_n_layers": 1}, "2 point_grids"),
        ({"points_per_batch": 0}, "points_per_batch"),
    ]
    for options, words in wrong:
        with pytest.raises(ValueError, match=words):
            AutomaticMaskGenerator(small, **options)


def test_prompts_are_the_predictor_s(small: Any) -> None:
    image = picture(90, 120)
    points = torch.tensor([[[0.3, 0.6], [0.9, 0.1], [0.5, 0.5]]])
    boxes = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.3, 0.3, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0]]])
    known, size = torch.tensor([[True, False, True]]), np.array([120, 90])
    predictor = SamPredictor(small)
    predictor.set_image(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    at_points = SamPrompts(small)(Batch(tensor, objects={"points": points, "point_known": known}))
    in_boxes = SamPrompts(small, prompts_per_batch=1)(Batch(tensor, objects={"boxes": boxes, "box_known": known}))
    assert not at_points.valid[0, 1]
    assert not in_boxes.masks[0, 1].any()
    for column in (0, 2):
        masks, quality, _ = predictor.predict(points[0, column : column + 1].numpy() * size, np.ones(1))
        best = quality.argmax()
        assert (at_points.masks[0, column].numpy() != masks[best]).mean() < 1e-4
        assert at_points.scores[0, column].item() == pytest.approx(quality[best] * masks[best].any(), abs=1e-5)
        corners = boxes[0, column].numpy() * np.tile(size, 2)
        masks, quality, _ = predictor.predict(box=corners, multimask_output=False)
        assert (in_boxes.masks[0, column].numpy() != masks[0]).mean() < 1e-4
        assert in_boxes.scores[0, column].item() == pytest.approx(quality[0] * masks[0].any(), abs=1e-5)
    with pytest.raises(ValueError, match="points or boxes"):
        SamPrompts(small)(Batch(tensor))
    with pytest.raises(ValueError, match="finite"):
        SamPrompts(small)(Batch(tensor, objects={"points": points * torch.nan, "point_known": known}))

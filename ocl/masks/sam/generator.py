"""Masks of everything in an image, from a grid of points (Kirillov et al. 2023, arXiv 2304.02643)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ocl.masks import rle
from ocl.masks.base import Masks
from ocl.masks.sam.candidates import Candidates, mask_boxes, pack, stability_score, suppress, unpack
from ocl.masks.sam.embedding import PromptableImage, promptable
from ocl.masks.sam.encoder import SamEncoder
from ocl.masks.sam.load import segment_anything
from ocl.masks.sam.pixels import checked_image, images_of, stacked
from ocl.masks.sam.small_regions import without_small_regions
from ocl.shapes import Batch

Segmentation = Literal["binary_mask", "uncompressed_rle", "coco_rle"]


class AutomaticMaskGenerator:
    """segment-anything's `SamAutomaticMaskGenerator` with less work: same arguments, same defaults, same masks.

    `generate` gives the package's list of dicts; called with a batch, it is a `MaskSource` of tensors. The masks are
    the package's up to rounding: what is within rounding of a threshold (a logit, a predicted IoU) may fall on its
    other side. What is saved:

    - image-side products of the mask decoder once per image instead of per point (`decoder`);
    - predicted IoU first: only points with a mask above the threshold are upscaled, only masks above it enlarged;
    - run-length codes of the final masks alone, and none where tensors are asked for;
    - attention maps of the image encoder are not stored (`encoder`).

    An empty mask has no stability, or none above a positive threshold, and is dropped; with a threshold of 0 or less
    `generate` returns it as the package does, box and area 0, and the tensors leave it out.

    Args:
        model: segment-anything's `Sam` (see `load_sam`); used in place.
        points_per_side: points in a row and a column of the grid.
        points_per_batch: points decoded together, on a CPU at most 8; fewer take less memory, and give the same masks.
        pred_iou_thresh: keep masks with a predicted IoU above; 0 keeps all.
        stability_score_thresh: keep masks of at least this stability; 0 keeps all.
        stability_score_offset: stability is the IoU of the masks at the mask threshold plus and minus this.
        box_nms_thresh: of two masks of a crop whose boxes overlap more, the one of lower predicted IoU goes.
        crop_n_layers: also segment the crops of so many layers, 2^l by 2^l crops in layer l.
        crop_nms_thresh: of two masks of different crops whose boxes overlap more, the one of the larger crop goes.
        crop_overlap_ratio: overlap of the crops of the first layer, of the image's short side.
        crop_n_points_downscale_factor: points in a row are divided by this to the power of the layer.
        point_grids: for every layer (n 2) points in [0, 1], in the place of `points_per_side` (then None).
        min_mask_region_area: fill smaller holes and remove smaller islands, in pixels; 0 leaves them.
        output_mode: of `generate`: "binary_mask" (H W) bool, or a code of runs, "uncompressed_rle" or "coco_rle".
        images_per_batch: images, or crops of one, encoded together; pays on a GPU.
        bfloat16: run the image encoder under bfloat16 autocast; the masks are then not exactly the package's.
        compiled: run the image encoder through torch.compile.

    Raises:
        ImportError: segment-anything is not installed.
        ValueError: neither or both of points_per_side and point_grids, too few grids, or an unknown output_mode.
    """

    def __init__(
        self,
        model: nn.Module,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: list[NDArray[np.float64]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: Segmentation = "binary_mask",
        images_per_batch: int = 1,
        bfloat16: bool = False,
        compiled: bool = False,
    ) -> None:
        segment_anything()
        from segment_anything.utils.amg import build_all_layer_point_grids

        if output_mode not in ("binary_mask", "uncompressed_rle", "coco_rle"):
            raise ValueError(f"output_mode must be binary_mask, uncompressed_rle or coco_rle, got {output_mode!r}.")
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("Exactly one of points_per_side and point_grids must be given; the other must be None.")
        if min(points_per_batch, images_per_batch) < 1:
            raise ValueError(
                f"points_per_batch and images_per_batch must be at least 1, got {points_per_batch}, {images_per_batch}."
            )
        if point_grids is None:
            point_grids = build_all_layer_point_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        if len(point_grids) <= crop_n_layers:
            raise ValueError(
                f"{crop_n_layers} crop layers need {crop_n_layers + 1} point_grids, got {len(point_grids)}."
            )
        self.model: Any = model
        self.encoder = SamEncoder(self.model.image_encoder, bfloat16, compiled)
        self.point_grids, self.points_per_batch, self.images_per_batch = point_grids, points_per_batch, images_per_batch
        self.pred_iou_thresh, self.box_nms_thresh = pred_iou_thresh, box_nms_thresh
        self.stability_score_thresh, self.stability_score_offset = stability_score_thresh, stability_score_offset
        self.crop_n_layers, self.crop_overlap_ratio = crop_n_layers, crop_overlap_ratio
        self.crop_nms_thresh = crop_nms_thresh
        self.min_mask_region_area, self.output_mode = min_mask_region_area, output_mode

    @torch.no_grad()
    def generate(self, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """(H W 3) uint8 RGB -> one dict per mask, with the package's keys and types.

        segmentation: as `output_mode` says; bbox and crop_box: [x, y, w, h] in pixels, w and h to the last pixel and so
        one less than its number of columns and rows; area; predicted_iou; stability_score; point_coords: [[x, y]].

        Raises:
            TypeError, ValueError: not a NumPy array (H W 3) of uint8: grey and transparent images are refused.
        """
        (found,) = self._find([checked_image(image)])
        masks = unpack(found.packed, image.shape[:2])
        segmentations: list[Any]
        if self.output_mode == "binary_mask":
            segmentations = list(masks.cpu().numpy())
        else:
            segmentations = rle.compress(masks) if self.output_mode == "coco_rle" else rle.encode(masks)
        return [
            {
                "segmentation": segmentation,
                "area": area,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "predicted_iou": quality,
                "point_coords": [point],
                "stability_score": stability,
                "crop_box": [left, top, right - left, bottom - top],
            }
            for segmentation, area, (x0, y0, x1, y1), quality, point, stability, (left, top, right, bottom) in zip(
                segmentations,
                masks.sum(-1, dtype=torch.int32).sum(-1).tolist(),
                found.boxes.tolist(),
                found.quality.tolist(),
                found.points.tolist(),
                found.stability.tolist(),
                found.crop_boxes.tolist(),
                strict=True,
            )
        ]

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Masks:
        """images (B 3 H W) -> masks (B K H W), in the order of `generate`, with their predicted IoU as scores.

        Float images are rounded to 0..255.

        Raises:
            ValueError: images that are not finite.
        """
        found = list(self._find(images_of(batch)))
        size = tuple(batch.images.shape[-2:])
        return stacked([unpack(each.packed, size) for each in found], [each.quality for each in found])

    def _find(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[Candidates]:
        from segment_anything.utils.amg import generate_crop_boxes

        cut = [generate_crop_boxes(each.shape[:2], self.crop_n_layers, self.crop_overlap_ratio) for each in images]
        parts = [image[y0:y1, x0:x1] for image, (crops, _) in zip(images, cut, strict=True) for x0, y0, x1, y1 in crops]
        prompted = promptable(self.model, self.encoder, parts, self.points_per_batch, self.images_per_batch)
        for image, (crops, layers) in zip(images, cut, strict=True):
            size = image.shape[:2]
            found = [
                self._find_in_crop(next(prompted), crop, layer, size) for crop, layer in zip(crops, layers, strict=True)
            ]
            yield self._joined(found, size)

    def _joined(self, found: list[Candidates], size: tuple[int, ...]) -> Candidates:
        """Masks of all crops of an image."""
        every = Candidates.concatenated(found)
        if len(found) > 1:  # masks of smaller crops go first
            x0, y0, x1, y1 = every.crop_boxes.unbind(dim=1)
            every = every[suppress(every.boxes, 1 / ((x1 - x0) * (y1 - y0)), self.crop_nms_thresh)]
        if self.min_mask_region_area > 0:
            every = self._without_small_regions(every, size)
        return every

    def _find_in_crop(
        self, prompted: PromptableImage, crop: list[int], layer: int, size: tuple[int, ...]
    ) -> Candidates:
        """Masks of one crop x0, y0, x1, y1 of an image of (H W), in the pixels of the whole image."""
        x0, y0, x1, y1 = crop
        grid = torch.as_tensor(self.point_grids[layer] * np.array([[x1 - x0, y1 - y0]]))
        batches = [self._find_at_points(prompted, points, crop, size) for points in grid.split(prompted.at_once)]
        found = Candidates.concatenated(batches)
        found = found[suppress(found.boxes, found.quality, self.box_nms_thresh)]
        return found.moved(crop, size)

    def _find_at_points(
        self, image: PromptableImage, points: Tensor, crop: list[int], size: tuple[int, ...]
    ) -> Candidates:
        """Masks of a batch of points (P 2) that pass the filters, in the pixels of the crop."""
        from segment_anything.utils.amg import is_box_near_crop_edge

        tokens, updates, quality = image.prompt(points)
        chosen = torch.ones_like(quality, dtype=torch.bool)
        if self.pred_iou_thresh > 0:
            chosen = quality > self.pred_iou_thresh
        chosen[:, 0] = False  # the mask for prompts that are not ambiguous; a point is
        threshold, parts = self.model.mask_threshold, [Candidates.none(quality, image.frame.size)]
        for prompts, which, logits in image.logits(tokens, updates, chosen):
            ious = quality[prompts, which]
            stability = stability_score(logits, threshold, self.stability_score_offset)
            if self.stability_score_thresh > 0:
                keep = stability >= self.stability_score_thresh
                logits, stability, ious, prompts = logits[keep], stability[keep], ious[keep], prompts[keep]
            masks = logits > threshold
            boxes = mask_boxes(masks)
            keep = ~is_box_near_crop_edge(boxes, crop, [0, 0, size[1], size[0]])
            chosen_points = points.to(prompts.device)[prompts]
            part = Candidates(
                pack(masks), boxes, ious, stability, chosen_points, boxes.new_tensor([crop]).expand_as(boxes)
            )
            parts.append(part[keep])
        return Candidates.concatenated(parts)

    def _without_small_regions(self, found: Candidates, size: tuple[int, ...]) -> Candidates:
        """Small holes and islands are removed; of masks whose boxes now overlap, those that did not change go first."""
        masks = unpack(found.packed, size)
        cleaned = [without_small_regions(mask, self.min_mask_region_area) for mask in masks.cpu().numpy()]
        if not cleaned:
            return found
        masks = torch.as_tensor(np.stack([mask for mask, _ in cleaned])).to(masks.device)
        unchanged = torch.tensor([float(not changed) for _, changed in cleaned], device=masks.device)
        found = replace(found, packed=pack(masks), boxes=mask_boxes(masks))
        return found[suppress(found.boxes, unchanged, max(self.box_nms_thresh, self.crop_nms_thresh))]

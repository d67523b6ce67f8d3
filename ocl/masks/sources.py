"""Mask sources that need no segmentation model: blind baselines, superpixels, slots and the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ocl.masks.base import Masks, MaskSource, required_by
from ocl.masks.filters import Filters, published
from ocl.masks.label_maps import to_masks
from ocl.metrics.labels import label_map
from ocl.shapes import Batch, Slots, images_as_float


class WholeImage:
    """One mask: the image. K = 1."""

    def __call__(self, batch: Batch) -> Masks:
        size = batch.images.shape[-2:]
        return Masks.of(torch.ones(len(batch), 1, *size, dtype=torch.bool, device=batch.images.device))


class Grid:
    """Equal cells in raster order, whatever the image shows. K = rows * columns."""

    def __init__(self, rows: int, columns: int) -> None:
        if rows < 1 or columns < 1:
            raise ValueError(f"Grid needs at least one row and one column, got {rows} x {columns}.")
        self.rows, self.columns = rows, columns

    def __call__(self, batch: Batch) -> Masks:
        height, width = batch.images.shape[-2:]
        if self.rows > height or self.columns > width:
            raise ValueError(
                f"A grid of {self.rows} x {self.columns} cells needs as many pixels, got {height} x {width}."
            )
        labels = grid_labels((height, width), self.rows, self.columns).to(batch.images.device)
        return to_masks(labels.expand(len(batch), -1, -1), zero=True)


class Slic:
    """Superpixels by k-means in colour and place: `skimage.segmentation.slic` with these arguments.

    About `n_segments` masks, a partition. Needs the extra `superpixels`.
    """

    def __init__(self, n_segments: int = 100, compactness: float = 10.0, sigma: float = 0.0) -> None:
        if n_segments < 1:
            raise ValueError(f"Slic: n_segments must be at least 1, got {n_segments}.")
        if compactness <= 0 or sigma < 0:
            raise ValueError(f"Slic: compactness must be positive and sigma not negative, got {compactness}, {sigma}.")
        self.n_segments, self.compactness, self.sigma = n_segments, compactness, sigma
        _segmentation()

    def __call__(self, batch: Batch) -> Masks:
        return _superpixels(
            batch,
            lambda image: _segmentation().slic(
                image, n_segments=self.n_segments, compactness=self.compactness, sigma=self.sigma, start_label=1
            ),
        )


class Felzenszwalb:
    """Superpixels by merging along a graph: `skimage.segmentation.felzenszwalb` with these arguments.

    A larger `scale` gives larger segments; their number follows the image. A partition. Needs the extra `superpixels`.
    """

    def __init__(self, scale: float = 100.0, sigma: float = 0.8, min_size: int = 20) -> None:
        if min(scale, sigma, min_size) < 0:
            found = f"{scale}, {sigma}, {min_size}"
            raise ValueError(f"Felzenszwalb: scale, sigma and min_size must not be negative, got {found}.")
        self.scale, self.sigma, self.min_size = scale, sigma, min_size
        _segmentation()

    def __call__(self, batch: Batch) -> Masks:
        return _superpixels(
            batch,
            lambda image: (
                _segmentation().felzenszwalb(image, scale=self.scale, sigma=self.sigma, min_size=self.min_size) + 1
            ),
        )


class SlotMasks:
    """The masks of slots, upsampled bilinearly to the image; mask k belongs to slot k.

    Hard masks are the slot that wins the pixel, decided after upsampling; slots that win none are not valid.

    Args:
        encoder: any map from a batch to `Slots` with masks, an `ObjectEncoder` for instance.
        soft: keep the soft masks.
    """

    def __init__(self, encoder: Callable[[Batch], Slots], soft: bool = False) -> None:
        self.encoder, self.soft = encoder, soft
        self.requires = required_by(encoder)

    def __call__(self, batch: Batch) -> Masks:
        slots = self.encoder(batch)
        if slots.masks is None:
            raise ValueError(f"{type(self.encoder).__name__} gives no masks; segments need slots with masks.")
        height, width = batch.images.shape[-2:]
        if self.soft:
            masks = F.interpolate(slots.masks.float(), (height, width), mode="bilinear", align_corners=False)
            return Masks.of(masks * slots.valid[..., None, None])
        labels = label_map(slots.masks, (height, width), slots.valid)
        names = torch.arange(slots.masks.shape[1], device=labels.device)
        return Masks.of(labels.unsqueeze(1) == names.view(1, -1, 1, 1))


class TrueMasks:
    """The segments of the batch's own segmentation, label maps of files and people included; `IGNORE` is left out.

    background: whether label 0 is a segment too.
    """

    requires = frozenset({"images", "segmentation"})

    def __init__(self, background: bool = False) -> None:
        self.background = background

    def __call__(self, batch: Batch) -> Masks:
        if batch.segmentation is None:
            raise ValueError("TrueMasks needs images with a segmentation; this data set gives none.")
        return to_masks(batch.segmentation, zero=self.background)


class Filtered:
    """What filters leave of a source's masks, moved together: K is the most that any image keeps, at least 1.

    filters: None takes those of the published runs of OCCAM.
    """

    def __init__(self, source: MaskSource, filters: Filters | None = None) -> None:
        self.source = source
        self.filters = published() if filters is None else filters
        self.requires = required_by(source)

    def __call__(self, batch: Batch) -> Masks:
        return self.filters(self.source(batch)).compact()


def grid_labels(size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """(H W) labels of a rows x columns checkerboard of equal cells: the best blind guess at scattered objects."""
    y = torch.arange(size[0]) * rows // size[0]
    x = torch.arange(size[1]) * columns // size[1]
    return y[:, None] * columns + x


def _superpixels(batch: Batch, segment: Callable[[NDArray[np.float32]], NDArray[np.int64]]) -> Masks:
    """Image by image, on the CPU."""
    images = images_as_float(batch.images).permute(0, 2, 3, 1).cpu().numpy()
    if not np.isfinite(images).all():
        raise ValueError("Superpixels need finite images, these hold NaN or infinity.")
    labels = np.zeros(images.shape[:3], dtype=np.int64)
    for number, image in enumerate(images):
        labels[number] = segment(np.ascontiguousarray(image))
    return to_masks(torch.from_numpy(labels).to(batch.images.device))


def _segmentation() -> Any:
    try:
        import skimage.segmentation
    except ImportError as error:
        raise ImportError("Superpixels need scikit-image: pip install 'ocl-research[superpixels]'.") from error
    return skimage.segmentation

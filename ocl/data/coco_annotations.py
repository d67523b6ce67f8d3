"""COCO's masks of single objects, polygons and run-length codes, painted without hiding where they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.masks import rle
from ocl.shapes import IGNORE


def code_of(segmentation: Any, height: int, width: int) -> rle.RLE:
    """An annotation's "segmentation" as a run-length code; polygons need pycocotools.

    Raises:
        ImportError: polygons without pycocotools.
        ValueError: no segmentation, or one of another size than its image.
    """
    if isinstance(segmentation, Mapping):
        size = tuple(map(int, segmentation["size"]))
        if size != (height, width):
            raise ValueError(f"a mask is {size}, its image {(height, width)}; they must be the same")
        return dict(segmentation)
    if not segmentation or any(len(corners) < 6 or len(corners) % 2 for corners in segmentation):
        raise ValueError("a polygon needs x and y of at least three corners")
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise ImportError("COCO's polygons need pycocotools: pip install 'ocl-research[coco]'.") from error
    polygons = [np.asarray(corners, np.float64).tolist() for corners in segmentation]
    merged: rle.RLE = coco.merge(coco.frPyObjects(polygons, height, width))
    return merged


def painted(
    codes: Sequence[rle.RLE],
    numbers: Sequence[int],
    shape: tuple[int, int],
    overlap: int = IGNORE,
    crowds: Sequence[rle.RLE] = (),
    crowd: int = IGNORE,
) -> NDArray[np.int64]:
    """(H W): 0 where no mask is, the number of the mask where one is, `overlap` where several are, and `crowd` where
    only crowds are."""
    count = np.zeros(shape, np.uint16)
    labels = np.zeros(shape, np.int64)
    if codes:
        masks = rle.decode(codes).numpy().view(np.uint8)
        count = masks.sum(axis=0, dtype=np.uint16)
        labels = np.einsum("nhw,n->hw", masks, np.asarray(numbers, np.int64))  # right wherever one mask is
    labels[count > 1] = overlap
    if crowds:
        labels[rle.decode(crowds).any(dim=0).numpy() & (count == 0)] = crowd
    return labels

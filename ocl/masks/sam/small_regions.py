"""Small holes and small islands of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def without_small_regions(mask: NDArray[np.bool_], area: float) -> tuple[NDArray[np.bool_], bool]:
    """(H W) -> the mask, holes of fewer than `area` pixels filled, then such islands removed; and whether it changed.

    Regions are connected over edges and corners. Where every island is small, the largest stays, of equal ones the
    first in raster order. The rule is that of segment-anything, which needs OpenCV for it.
    """
    regions, sizes = _regions(~mask)
    holes = sizes < area
    holes[0] = False
    filled = mask | holes[regions] if holes.any() else mask
    regions, sizes = _regions(filled)
    islands = sizes >= area
    islands[0] = False
    if islands.sum() == len(sizes) - 1:  # none is small
        return filled, bool(holes.any())
    if not islands.any():
        islands[1 + sizes[1:].argmax()] = True
    return islands[regions], True


def _regions(mask: NDArray[np.bool_]) -> tuple[NDArray[np.signedinteger[Any]], NDArray[np.signedinteger[Any]]]:
    """Numbers (H W) from 1, 0 outside; pixels of every number."""
    regions, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return regions, np.bincount(regions.ravel(), minlength=count + 1)

"""Copies of an object in one image: patches with equal pixels in different objects."""

from __future__ import annotations

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ocl.shapes import IGNORE


def identical_patches(
    image: Tensor, objects: Tensor, grid: tuple[int, int], copies: int = 3, patches: int = 2
) -> Tensor | None:
    """(O m) int64, in raster order: the m patches that each of O copies of one object shows, in the same order.

    Objects are copies of each other where they have at least `patches` different contents in common, each shown once by
    both; copies of copies are copies. Of several kinds with copies the one with the most is taken. None where no object
    has `copies` of them (itself included), or something lies in front so that fewer than `patches` are left to all.

    Args:
        image: (C H W) of any type; pixels are equal or not.
        objects: (N) int64, what each patch shows; `IGNORE` for patches that are not wholly of one object.
        grid: (h, w).
        copies: least O.
        patches: least m.

    Raises:
        ValueError: an image that cannot be cut into the grid, or another number of objects than patches.
    """
    rows, columns = grid
    height, width = image.shape[-2:]
    if height % rows or width % columns or len(objects) != rows * columns:
        raise ValueError(
            f"identical_patches needs images whose sides are multiples of the grid {rows} x {columns} and as many "
            f"objects, got {height} x {width} and {len(objects)}."
        )
    cells = image.unflatten(-1, (columns, -1)).unflatten(-3, (rows, -1))  # (C h down w across)
    pixels = cells.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)  # (N P)
    known = (objects != IGNORE).nonzero()[:, 0]
    if not len(known):
        return None
    content = pixels[known].unique(dim=0, return_inverse=True)[1]
    number = objects[known].unique(return_inverse=True)[1]
    table = torch.zeros(int(number.max()) + 1, int(content.max()) + 1, device=image.device)  # objects x contents
    once = table.index_put((number, content), torch.ones((), device=image.device), accumulate=True) == 1
    common = (once.float() @ once.float().mT >= patches).cpu()
    kinds = torch.from_numpy(connected_components(common.numpy(), directed=False)[1])
    group = (kinds == kinds.bincount().argmax()).nonzero()[:, 0].to(image.device)
    shared = once[group].all(dim=0)
    if len(group) < copies or int(shared.sum()) < patches:
        return None
    place = table.long().index_put((number, content), known)
    return place[group][:, shared]

"""Items of a data set -> `Batch`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ocl.shapes import Batch


def collate(items: Sequence[dict[str, Tensor]]) -> Batch:
    """Stack items: "images" (3 H W) and "segmentation" (H W) by name, everything else into `Batch.objects`.

    Raises:
        ValueError: no items, no "images", or items whose fields or shapes differ.
    """
    if not items:
        raise ValueError("collate needs at least one item.")
    names = items[0].keys()
    if "images" not in names:
        raise ValueError(f'Items must hold "images"; these hold {", ".join(names) or "nothing"}.')
    if any(item.keys() != names for item in items):
        raise ValueError("All items of a batch must hold the same fields; read one data set per batch.")
    fields = {name: _stack(name, [item[name] for item in items]) for name in names}
    images, segmentation = fields.pop("images"), fields.pop("segmentation", None)
    return Batch(images, None if segmentation is None else segmentation.long(), fields)


def _stack(name: str, values: list[Tensor]) -> Tensor:
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f'"{name}" has different shapes in one batch ({sorted(shapes)}); resize or pad in the data set.'
        )
    return torch.stack(values)

"""Label maps as PNG files: palette pictures up to 255 segments, 16-bit greyscale above."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ocl.files import write_atomically
from ocl.masks.label_maps import LARGEST
from ocl.pictures import slot_colors

DEEP = ("I", "I;16", "I;16B", "I;16L")
"""Pillow's modes of 16-bit greyscale files."""


def write_label_map(path: str | Path, labels: Tensor) -> Path:
    """Write (H W) integer labels, whole or not at all; colours are the file's palette, the values are the labels.

    Raises:
        ValueError: not (H W) integer with pixels, or labels outside 0..65535 (a file has no room for `IGNORE`).
    """
    if labels.ndim != 2 or labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() == 0:
        raise ValueError(f"labels must be (H, W) integer with pixels, got {tuple(labels.shape)} {labels.dtype}.")
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > LARGEST:
        raise ValueError(
            f"{path} can hold labels in 0..{LARGEST}, got {lowest}..{highest}; number the segments from 1."
        )
    values = labels.cpu().numpy()
    if highest > 255:
        image = Image.fromarray(values.astype(np.uint16))
    else:
        image = Image.fromarray(values.astype(np.uint8))
        image.putpalette(_palette())  # from greyscale to palette indices of the same values
    return write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def read_label_map(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """(H W) int64: the palette's indices or the grey values of a PNG file.

    size: (H, W) that the map must have.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, not PNG, in colours instead of labels, or of another size.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode, values = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable PNG file ({error}); replace or delete it.") from error
    if mode not in ("1", "L", "P", *DEEP):
        raise ValueError(f"{path} holds colours ({mode}), not labels; save it with a palette or in greyscale.")
    labels = torch.from_numpy(values.astype(np.int64))
    if size is not None and labels.shape != size:
        raise ValueError(f"{path} is {tuple(labels.shape)}, its image {size}; they must be the same.")
    return labels


@cache
def _palette() -> list[int]:
    """Black for 0, then one colour per label."""
    colors: list[int] = slot_colors(255).flatten().tolist()
    return [0, 0, 0, *colors]

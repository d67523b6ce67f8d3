"""`ocl masks`: the masks of an image, a folder or a data set, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.data import Dataset

import ocl
from ocl.masks.base import MaskSource, networks_of
from ocl.masks.sources import SlotMasks
from ocl.segment import segment, table


def masks(
    source: MaskSource | Path,
    images: Dataset | Path,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
    folder: Path,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Write the masks of images as overlay pictures, label maps and one COCO file; run again to continue.

    Args:
        source: The class path of a mask source, or a checkpoint of slots: a folder, or "sprites", which is packaged.
        images: An image file, a folder that is searched recursively, or the class path of a data set.
        folder: Where labels/, overlays/, instances/, coco.json, results.json and the manifest go.
        device: Of the images and of the source's networks.
    """
    if isinstance(source, Path):
        source = SlotMasks(ocl.load(source, decoder_masks=True))  # finer than the attention over tokens
    for network in networks_of(source):
        network.to(device)
    rows = segment(source, images, folder, device=device)
    Console().print(table(rows))
    return rows

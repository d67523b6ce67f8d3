"""Images to masks on disk: overlay pictures, label maps and one COCO file, image by image and resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset

from ocl.describe import describe_part
from ocl.files import read_json, remove_leftovers, write_json, write_text
from ocl.manifest import write_manifest
from ocl.masks.base import MaskSource
from ocl.masks.coco import Record, record, write_coco
from ocl.masks.files import DEEP, write_label_map
from ocl.masks.label_maps import paint
from ocl.pictures import overlay, write_png
from ocl.shapes import Batch

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABELS, OVERLAYS, RECORDS, COCO = "labels", "overlays", "instances", "coco.json"


@dataclass
class Picture:
    """One image of a run: its name below the folder, and how to read it as (3 H W) uint8, or as a `Batch` of one."""

    name: str
    read: Callable[[], Batch]


def segment(
    source: MaskSource,
    images: str | Path | Dataset[Any],
    folder: str | Path,
    *,
    device: str = "cpu",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Find the masks of every image and write them; run again to continue.

    For the image a/b.jpg: folder/labels/a/b.jpg.png (label map; where masks overlap the highest score wins the pixel),
    folder/overlays/a/b.jpg.png and folder/instances/a/b.jpg.json; for all of them folder/coco.json (masks as found,
    overlaps and scores included), results.json (the rows) and manifest.json. An image that cannot be read or segmented
    is reported in its row, and the run goes on; the next run tries it again.

    Args:
        source: gives hard masks.
        images: an image file, a folder that is searched recursively, or a data set, whose items are named 000000,
            000001 and so on.
        device: where the images are put before the source sees them.

    Returns:
        One row per image: file, masks (how many), covered (share of the image in some mask), error (None if all is
        well) and resumed (whether an earlier run had found its masks).

    Raises:
        FileNotFoundError: no such file or folder, or no image in it.
        ValueError: the folder holds masks of another source.
    """
    folder = Path(folder)
    pictures = pictures_of(images, folder)
    config = {"source": describe_part(source)}
    _refuse_other_source(folder, config)
    write_manifest(folder, config=config, seed=None)
    rows = []
    for picture in track(pictures, "segmenting", disable=not progress):
        path = folder / RECORDS / f"{picture.name}.json"
        found, error = _finished(path), None
        resumed = found is not None
        if found is None:
            try:
                found = _write(picture, source, folder, device)
                # Last, and in one piece: what has a record is finished.
                write_text(path, json.dumps(found) + "\n")
            except ValueError as reason:
                error = str(reason)
        covered = None if found is None else found["covered"]
        count = None if found is None else len(found["annotations"])
        rows.append({"file": picture.name, "masks": count, "covered": covered, "error": error, "resumed": resumed})
    done = [row["file"] for row in rows if row["error"] is None]
    write_coco(folder / COCO, (read_json(folder / RECORDS / f"{name}.json") for name in done))
    write_json(folder / "results.json", rows)
    return rows


def table(rows: list[dict[str, Any]], most: int = 20) -> Table:
    """How many images have masks, and what was wrong with the others, the first `most` of them by name."""
    done = [row for row in rows if row["error"] is None]
    failed = [row for row in rows if row["error"] is not None]
    drawn = Table(title="Masks")
    for name in ("images", "how many", "masks per image", "covered"):
        drawn.add_column(name, justify="left" if name == "images" else "right")
    for name, part in (
        ("segmented now", [row for row in done if not row["resumed"]]),
        ("found finished", [row for row in done if row["resumed"]]),
    ):
        counts = [row["masks"] for row in part]
        spread = f"{np.mean(counts):.1f} ({min(counts)} to {max(counts)})" if part else ""
        drawn.add_row(name, str(len(part)), spread, f"{np.mean([row['covered'] for row in part]):.0%}" if part else "")
    drawn.add_row("skipped", str(len(failed)))
    for row in failed[:most]:
        drawn.add_row(f"  {row['error']}")
    if len(failed) > most:
        drawn.add_row(f"  and {len(failed) - most} more, see results.json")
    return drawn


def pictures_of(images: str | Path | Dataset[Any], folder: Path) -> list[Picture]:
    """What a run reads, in order; files below `folder` are results, not images.

    Raises:
        FileNotFoundError: no such file or folder, or no image in it.
    """
    if isinstance(images, Dataset):
        return [Picture(f"{i:06d}", lambda i=i: _item(images, i)) for i in range(len(cast(Sized, images)))]  # type: ignore[misc]
    images = Path(images)
    if images.is_file():
        return [Picture(images.name, lambda: _file(images))]
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is neither an image nor a folder; give one of them.")
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS)
    paths = [path for path in paths if folder.resolve() not in path.resolve().parents]
    if not paths:
        raise FileNotFoundError(f"{images} holds no image ({', '.join(EXTENSIONS)}), nor do its subfolders.")
    return [Picture(p.relative_to(images).as_posix(), lambda p=p: _file(p)) for p in paths]  # type: ignore[misc]


def read_pixels(path: Path) -> Tensor:
    """(3 H W) uint8, upright as its EXIF data say; 16 bits to 8 by range, transparency on white, grey as colour.

    Raises:
        ValueError: not a readable image, or pixels that are floating.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.mode in DEEP:
                grey = (np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)
                image = Image.fromarray(grey)
            elif image.mode == "F":
                raise ValueError("its pixels are floating and have no known range")
            elif image.has_transparency_data:
                colors = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), colors)
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image ({error}).") from error
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _write(picture: Picture, source: MaskSource, folder: Path, device: str) -> Record:
    """Overlay and label map to disk; gives the record that is still to be written."""
    batch = picture.read()
    on_device = Batch(
        batch.images.to(device), None if batch.segmentation is None else batch.segmentation.to(device), batch.objects
    )
    masks = source(on_device).compact()
    labels = paint(masks).cpu()
    write_label_map(folder / LABELS / f"{picture.name}.png", labels[0])
    tinted = overlay(batch.images, labels - 1, max(1, masks.masks.shape[1]))
    write_png(folder / OVERLAYS / f"{picture.name}.png", tinted[0])
    return {**record(picture.name, masks), "covered": float((labels > 0).float().mean())}


def _file(path: Path) -> Batch:
    return Batch(read_pixels(path).unsqueeze(0))


def _item(dataset: Dataset[Any], index: int) -> Batch:
    item = dataset[index]
    segmentation = item.get("segmentation")
    return Batch(item["images"].unsqueeze(0), None if segmentation is None else segmentation.long().unsqueeze(0))


def _finished(path: Path) -> Record | None:
    """The record of an earlier run, or None where there is none that can be read."""
    try:
        found = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"annotations", "covered"} <= set(found) else None


def _refuse_other_source(folder: Path, config: dict[str, Any]) -> None:
    if (folder / "manifest.json").is_file():
        before = read_json(folder / "manifest.json").get("config")
        if before != json.loads(json.dumps(config)):
            raise ValueError(f"{folder} holds masks of another source; give another folder, or delete it.")
    for part in (LABELS, OVERLAYS, RECORDS):
        for place in [folder / part, *(folder / part).rglob("*/")]:
            remove_leftovers(place)

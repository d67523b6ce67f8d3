"""Images to masks on disk: overlay pictures, label maps and one COCO file, image by image and resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset

from ocl.data.images import read_image
from ocl.describe import describe_part, digest
from ocl.files import read_json, remove_leftovers, write_json, write_text
from ocl.manifest import write_manifest
from ocl.masks.base import MaskSource
from ocl.masks.coco import Record, record, write_coco
from ocl.masks.files import write_label_map
from ocl.masks.label_maps import paint
from ocl.pictures import overlay, write_png
from ocl.shapes import Batch, images_as_float
from ocl.shards import sha256_of

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
LABELS, OVERLAYS, RECORDS, COCO = "labels", "overlays", "instances", "coco.json"


Opened: TypeAlias = tuple[str, Callable[[], Batch]]
"""SHA-256 of an image's content, and how to read it as a `Batch` of one."""


@dataclass
class Picture:
    """One image of a run: its name below the folder, and how to open it."""

    name: str
    open: Callable[[], Opened]


@torch.no_grad()
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
    is reported in its row, and the run goes on; the next run tries it again, and what was replaced by another image.

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
        ValueError: the folder holds masks of another source, or the source refuses all images, as with a wrong setting.
    """
    folder = Path(folder)
    pictures = pictures_of(images, folder)
    config = {"source": describe_part(source)}
    _refuse_other_source(folder, config)
    write_manifest(folder, config=config, seed=None)
    rows, refused = [], []
    for picture in track(pictures, "segmenting", disable=not progress):
        row, by_source = _row(picture, source, folder, device)
        rows.append(row)
        refused += [row] if by_source else []
    done = [row["file"] for row in rows if row["error"] is None]
    if refused and not done:
        first = f"{refused[0]['file']}: {refused[0]['error']}"
        raise ValueError(f"{type(source).__name__} refused every image that could be read, the first being {first}")
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
        named = row["file"] in row["error"]  # a file that cannot be read is; what a source refuses is not
        drawn.add_row(f"  {row['error'] if named else row['file'] + ': ' + row['error']}")
    if len(failed) > most:
        drawn.add_row(f"  and {len(failed) - most} more, see results.json")
    return drawn


def pictures_of(images: str | Path | Dataset[Any], folder: Path) -> list[Picture]:
    """What a run reads, in order; the label maps and overlays in `folder` are results, not images.

    Raises:
        FileNotFoundError: no such file or folder, or no image in it.
    """
    if isinstance(images, Dataset):
        return [Picture(f"{i:06d}", lambda i=i: _open_item(images, i)) for i in range(len(cast(Sized, images)))]  # type: ignore[misc]
    images = Path(images)
    if images.is_file():
        return [Picture(images.name, lambda: _open_file(images))]
    if not images.is_dir():
        raise FileNotFoundError(f"{images} is neither an image nor a folder; give one of them.")
    results = {(folder / part).resolve() for part in (LABELS, OVERLAYS)}
    paths = sorted(path for path in images.rglob("*") if path.suffix.lower() in EXTENSIONS and not path.is_dir())
    paths = [path for path in paths if results.isdisjoint(path.resolve().parents)]
    if not paths:
        raise FileNotFoundError(f"{images} holds no image ({', '.join(EXTENSIONS)}), nor do its subfolders.")
    return [Picture(p.relative_to(images).as_posix(), lambda p=p: _open_file(p)) for p in paths]  # type: ignore[misc]


def read_pixels(path: Path) -> Tensor:
    """(3 H W) uint8, see `read_image`."""
    return torch.from_numpy(np.asarray(read_image(path)).transpose(2, 0, 1).copy())


def _row(picture: Picture, source: MaskSource, folder: Path, device: str) -> tuple[dict[str, Any], bool]:
    """The row of an image, and whether it was the source that refused it."""
    path = folder / RECORDS / f"{picture.name}.json"
    found, error, resumed, refused = None, None, False, False
    try:
        digest, read = picture.open()
        found = _finished(folder, picture.name, digest)
        resumed = found is not None
        batch = None if resumed else read()
    except (OSError, ValueError) as reason:
        batch, error = None, str(reason)
    if batch is not None:
        try:
            found = {**_write(picture.name, batch, source, folder, device), "sha256": digest}
            write_text(path, json.dumps(found) + "\n")  # last, and in one piece: what has a record is finished
        except ValueError as reason:
            error, refused = str(reason), True
    numbers = (None, None) if found is None else (len(found["annotations"]), found["covered"])
    row = {"file": picture.name, "masks": numbers[0], "covered": numbers[1], "error": error, "resumed": resumed}
    return row, refused


def _write(name: str, batch: Batch, source: MaskSource, folder: Path, device: str) -> Record:
    """Overlay and label map to disk; gives the record that is still to be written."""
    images = images_as_float(batch.images)
    if not images.isfinite().all():
        raise ValueError(f"the image {name} holds NaN or infinity.")
    on_device = Batch(
        batch.images.to(device), None if batch.segmentation is None else batch.segmentation.to(device), batch.objects
    )
    masks = source(on_device).compact()
    if len(masks) != 1 or masks.masks.shape[2:] != images.shape[2:]:
        found, expected = tuple(masks.masks.shape), f"(1, K, {images.shape[2]}, {images.shape[3]})"
        raise ValueError(f"{type(source).__name__} must give masks {expected} for the image {name}, it gave {found}.")
    labels = paint(masks).cpu()
    write_label_map(folder / LABELS / f"{name}.png", labels[0])
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    write_png(folder / OVERLAYS / f"{name}.png", overlay(pixels, labels - 1, max(1, masks.masks.shape[1]))[0])
    return {**record(name, masks), "covered": float((labels > 0).float().mean())}


def _open_file(path: Path) -> Opened:
    return sha256_of(path), lambda: Batch(read_pixels(path).unsqueeze(0))


def _open_item(dataset: Dataset[Any], index: int) -> Opened:
    item = dataset[index]
    segmentation = item.get("segmentation")
    batch = Batch(item["images"].unsqueeze(0), None if segmentation is None else segmentation.long().unsqueeze(0))
    shown = " ".join(digest(part) for part in (batch.images, batch.segmentation) if part is not None)
    return hashlib.sha256(shown.encode()).hexdigest(), lambda: batch


def _finished(folder: Path, name: str, sha256: str) -> Record | None:
    """The record of an earlier run, or None where there is none that can be read and is of this very image."""
    try:
        found = read_json(folder / RECORDS / f"{name}.json")
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(found, dict) or not {"annotations", "covered"} <= set(found) or found.get("sha256") != sha256:
        return None
    return found if all((folder / part / f"{name}.png").is_file() for part in (LABELS, OVERLAYS)) else None


def _refuse_other_source(folder: Path, config: dict[str, Any]) -> None:
    if (folder / "manifest.json").is_file():
        before = read_json(folder / "manifest.json").get("config")
        if before != json.loads(json.dumps(config)) and any((folder / RECORDS).rglob("*.json")):
            raise ValueError(f"{folder} holds masks of another source; give another folder, or delete it.")
    for part in (LABELS, OVERLAYS, RECORDS):
        for place in [folder / part, *(folder / part).rglob("*/")]:
            remove_leftovers(place)

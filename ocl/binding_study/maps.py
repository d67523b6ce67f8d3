"""How similar every patch is to one patch, over the image, layer by layer: what a probe takes to be its object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.utils.data import Dataset

from ocl.binding.probes import PairProbe
from ocl.binding_study.patch_encoders import PatchEncoder
from ocl.data.collate import collate
from ocl.data.scenes import Item
from ocl.files import write_atomically
from ocl.shapes import Batch, images_as_float

TILE, GAP, LINE = 144, 8, 16  # pixels
MOST_PLACES = 8
QUERY = "#ff2d55"
LOW, HIGH = (0.05, 0.05, 0.20), (1.0, 0.90, 0.20)
"""Colours of probability 0 and 1."""
GREY = 0.55


def first_batch(dataset: Dataset[Item], images: int, device: str = "cpu") -> Batch:
    """The first so many items (all, where there are fewer), on `device`."""
    count = min(images, len(dataset))  # type: ignore[arg-type]
    return on_device(collate([dataset[index] for index in range(count)]), device)


def on_device(batch: Batch, device: str) -> Batch:
    segmentation = None if batch.segmentation is None else batch.segmentation.to(device)
    return Batch(batch.images.to(device), segmentation, {k: v.to(device) for k, v in batch.objects.items()})


def patch_number(patch: Sequence[int], grid: tuple[int, int]) -> int:
    """(row, column) -> the patch's number in raster order.

    Raises:
        ValueError: a patch outside the grid.
    """
    row, column = patch
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise ValueError(f"patch is (row, column) on a grid of {grid[0]} x {grid[1]} from 0, got {tuple(patch)}.")
    return row * grid[1] + column


def patch_at(point: Sequence[float], size: Sequence[int], grid: tuple[int, int]) -> int:
    """The number of the patch that shows the point (x, y), in pixels from the top left of images of size (H, W).

    Raises:
        ValueError: a point outside the image.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"point is (x, y) in images of {height} x {width} pixels from 0, got {tuple(point)}.")
    return patch_number((int(y * grid[0] // height), int(x * grid[1] // width)), grid)


@torch.no_grad()
def similarity_maps(encoder: PatchEncoder, probe: PairProbe, batch: Batch, queries: Tensor) -> Tensor:
    """(L B h w): the probability that a patch and its image's query patch (B) are one object; 1 at the query itself."""
    tokens, maps = encoder(batch), []
    for number, query in enumerate(queries.tolist()):  # one image at a time: logits are L N N
        same = probe(tokens[:, [number]])[:, 0, query].sigmoid()  # (L N)
        same[:, query] = 1
        maps.append(same.cpu().unflatten(-1, encoder.grid))
    return torch.stack(maps, dim=1)


def draw_maps(
    batch: Batch, queries: Tensor, maps: Tensor, known: Tensor, places: Sequence[str], best: int, path: Path
) -> Path:
    """Write a PNG: a row per image, which comes first with its query patch framed; then up to eight places, evenly
    spread, the best one among them. Patches that no pair was fitted on, not in `known` (B h w), are grey."""
    images = images_as_float(batch.images).cpu()
    shown = sorted({best, *np.linspace(0, len(places) - 1, min(MOST_PLACES, len(places))).round().astype(int).tolist()})
    names = [f"{places[place]}{' (best)' if place == best else ''}" for place in shown]
    grid = (maps.shape[-2], maps.shape[-1])
    tile = (TILE, max(1, round(TILE * images.shape[-2] / images.shape[-1])))  # (width, height)
    size = (GAP + (1 + len(shown)) * (TILE + GAP), LINE + GAP + len(images) * (tile[1] + GAP))
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for column, name in enumerate(["image, query patch", *names]):
        pen.text((GAP + column * (TILE + GAP), GAP / 2), name, "black", font)
    low, high = torch.tensor(LOW).view(3, 1, 1), torch.tensor(HIGH).view(3, 1, 1)
    for row, image in enumerate(images):
        top = LINE + GAP + row * (tile[1] + GAP)
        colours = [
            torch.where(known[row].cpu(), low + (high - low) * maps[place, row], GREY) for place in shown
        ]  # (3 h w)
        for column, values in enumerate([image, *colours]):
            left = GAP + column * (TILE + GAP)
            pixels = (255 * values).round().to(torch.uint8).permute(1, 2, 0).numpy()
            picture.paste(Image.fromarray(pixels).resize(tile, Image.Resampling.NEAREST), (left, top))
            y, x = divmod(int(queries[row]), grid[1])
            corner = (left + x * tile[0] / grid[1], top + y * tile[1] / grid[0])
            pen.rectangle((*corner, corner[0] + tile[0] / grid[1], corner[1] + tile[1] / grid[0]), outline=QUERY)
    return write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))

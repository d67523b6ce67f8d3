"""Correlation of a model's own attention with IsSameObject, layer by layer and head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table
from torch.utils.data import DataLoader, Dataset, Subset

from ocl.binding.measures import over_images
from ocl.binding.pairs import distances, places_of
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.subspace import attention_correlation
from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder
from ocl.binding_study.patch_store import objects_of
from ocl.binding_study.rows import ONLY, Row, value_of
from ocl.binding_study.settings import Sampling
from ocl.data.collate import collate
from ocl.data.scenes import Item
from ocl.files import write_atomically
from ocl.metrics.image_mean import PerImage
from ocl.representations.base import images_at

CORRELATION, ALL_HEADS, NEARNESS = "correlation", "attention, mean of heads", "nearness"
"""The measure; the row of the heads' mean; the control, minus the distance of two patches in the place of attention."""
CELL, LEFT, TOP, GAP = (34, 18), 64, 40, 24  # pixels
MOST, LEAST = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
"""Colours of a correlation of 1 and of -1; 0 is white."""


def head_name(head: int) -> str:
    return f"attention, head {head}"


def has_attention(encoder: PatchEncoder) -> bool:
    """Whether it reads a ViT.

    Raises:
        ValueError: a ViT whose blocks do not attend in a way that can be read, see `ViTLayers`.
    """
    if not isinstance(encoder, LayerTokens):
        return False
    blank = encoder.layers.mean.expand(3, *encoder.layers.image_size)[None]
    next(encoder.layers.attention(blank))
    return True


def attention_rows(
    model: str,
    encoder: LayerTokens,
    dataset: Dataset[Item],
    images: int,
    sampling: Sampling,
    batch_size: int = 8,
    device: str = "cpu",
    seed: int = 0,
) -> list[Row]:
    """Pearson's r of attention weights with IsSameObject over all pairs of patches of an image, both orders of a pair.

    One row per layer and head, one per layer of the heads' mean, and the control `NEARNESS`; means over the first
    `images` images with their bootstrap. Patches are those of the whole grid whose object is known, not the drawn ones.
    """
    count = min(images, len(dataset))  # type: ignore[arg-type]
    chosen: Any = Subset(dataset, range(count))
    near: list[PerImage] = []
    found: list[list[PerImage]] = [[] for _ in encoder.layers.layers]
    places = places_of(torch.arange(encoder.grid[0] * encoder.grid[1]), encoder.grid).to(device)
    for batch in DataLoader(chosen, batch_size, collate_fn=collate):
        labels = objects_of(batch, encoder.grid, sampling.purity, sampling.ignore, sampling.leave_out).to(device)
        pictures = images_at(batch.images.to(device), encoder.layers.image_size)
        nothing = pictures.new_zeros(1, *labels.shape, 1)
        patches = Patches(nothing, labels, places=places.expand(*labels.shape, 2))
        same, counted = patches.same, distinct_pairs(patches)
        near.append(attention_correlation(-distances(patches)[:, None], same, counted))
        for layer, weights in enumerate(encoder.layers.attention(pictures)):  # one at a time: heads x N x N
            with_mean = torch.cat([weights, weights.mean(dim=1, keepdim=True)], dim=1)
            found[layer].append(attention_correlation(with_mean, same, counted))
    rows = [_row(ONLY, NEARNESS, ONLY, _joined(near), 0, seed)]
    for layer, parts in zip(encoder.layers.layers, found, strict=True):
        joined = _joined(parts)
        heads = joined.values.shape[1] - 1
        for column, name in enumerate([*map(head_name, range(heads)), ALL_HEADS]):
            rows.append(_row(model, name, f"block {layer}", joined, column, seed))
    return rows


def _joined(parts: Sequence[PerImage]) -> PerImage:
    """(b heads) of some images each -> (B heads)."""
    return PerImage(*(torch.cat([part[side] for part in parts]) for side in (0, 1)))


def _row(model: str, name: str, place: str, measured: PerImage, column: int, seed: int) -> Row:
    interval = over_images(PerImage(measured.values[:, column], measured.counted[:, column]), seed=seed)
    about = {"model": model, "probe": name, "place": place, "chosen": False, "measure": CORRELATION}
    return about | asdict(interval)


def attention_table(rows: Sequence[Row]) -> Table:
    """One line per layer, one column per model: the heads' mean with its interval, and the best head."""
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != ONLY))
    control = value_of(rows, probe=NEARNESS)
    assert control is not None
    drawn = Table(
        title=f"Correlation of attention with IsSameObject: {control['images']} images",
        caption=f"Pearson's r over pairs of patches, mean of heads with a 95 % bootstrap interval over images; then the"
        f" head with the largest r, found on these images. Nearness of the patches alone: {_cell(control)}.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("layer", *models):
        drawn.add_column(column, justify="left" if column == "layer" else "right")
    for place in dict.fromkeys(row["place"] for row in rows if row["model"] != ONLY):
        cells = []
        for model in models:
            mine = [row for row in rows if (row["model"], row["place"]) == (model, place)]
            heads = [row for row in mine if row["probe"] != ALL_HEADS and math.isfinite(row["value"])]
            mean, best = value_of(mine, probe=ALL_HEADS), max(heads, key=lambda row: float(row["value"]), default=None)
            of = "" if best is None else f", {best['probe'].removeprefix('attention, ')}: {best['value']:.3f}"
            cells.append("-" if mean is None else f"{_cell(mean)}{of}")
        drawn.add_row(place, *cells)
    return drawn


def _cell(row: Row) -> str:
    return f"{row['value']:.3f} \\[{row['low']:.3f}, {row['high']:.3f}]"


def draw_attention(rows: Sequence[Row], path: Path) -> Path:
    """Write a PNG: a field of layers (down) by heads (across) for every model, each cell with its r."""
    models = list(dict.fromkeys(row["model"] for row in rows if row["model"] != ONLY))
    fields = [[row for row in rows if row["model"] == model and row["probe"] != ALL_HEADS] for model in models]
    heads = [len({row["probe"] for row in field}) for field in fields]
    layers = [len({row["place"] for row in field}) for field in fields]
    font = ImageFont.load_default(11)
    widths = [max(count * CELL[0], int(font.getlength(name))) for count, name in zip(heads, models, strict=True)]
    size = (sum(LEFT + width + GAP for width in widths), TOP + max(layers) * CELL[1] + GAP)
    picture = Image.new("RGB", size, "white")
    pen, left = ImageDraw.Draw(picture), LEFT
    for model, field, count, width in zip(models, fields, heads, widths, strict=True):
        pen.text((left, 4), model, "black", font)
        for number, row in enumerate(field):  # layers in order, the heads of each in order
            y, x = divmod(number, count)
            corner = (left + x * CELL[0], TOP + y * CELL[1])
            centre = (corner[0] + CELL[0] / 2, corner[1] + CELL[1] / 2)
            if y == 0:
                pen.text((centre[0], TOP - 9), f"{x}", "black", font, "mm")
            if x == 0:
                pen.text((left - 6, centre[1]), row["place"], "black", font, "rm")
            pen.rectangle((*corner, corner[0] + CELL[0] - 2, corner[1] + CELL[1] - 2), fill=_colour(row["value"]))
            pen.text(centre, f"{row['value']:.2f}", "black", font, "mm")
        left += LEFT + width + GAP
    return write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))


def _colour(value: float) -> tuple[int, int, int]:
    share = min(1.0, abs(value)) if math.isfinite(value) else 0.0
    red, green, blue = (round(255 + share * (end - 255)) for end in (MOST if value > 0 else LEAST))
    return red, green, blue

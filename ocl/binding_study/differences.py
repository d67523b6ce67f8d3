"""What a model's tokens say differently of identical objects, layer by layer: components, clusters, pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ocl.binding.identical import identical_patches
from ocl.binding.labels import patch_labels
from ocl.binding.measures import over_images
from ocl.binding.subspace import Differences, identical_differences, purity
from ocl.binding_study.maps import MOST_PLACES, on_device
from ocl.binding_study.patch_encoders import PatchEncoder
from ocl.binding_study.rows import Row, value_of
from ocl.data.collate import collate
from ocl.data.scenes import Item
from ocl.files import write_atomically
from ocl.metrics.image_mean import PerImage

COMPONENTS = 3
"""Of the differences: in as many the paper finds its clusters."""
IDENTICAL = "identical objects"
PURITY, CHANCE, VARIANCE = "purity", "purity by chance", f"variance in {COMPONENTS} components"
PERMUTATIONS = 20  # of the objects' names, for the purity that clusters have by chance
BACKGROUND = 0
TILE, GAP, TOP, LEFT = 132, 10, 22, 130  # pixels
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Example:
    """The differences of the first image with copies, one entry per place."""

    model: str
    places: tuple[str, ...]
    differences: list[Differences]


def difference_rows(
    model: str,
    encoder: PatchEncoder,
    dataset: Dataset[Item],
    batch_size: int = 32,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[list[Row], Example]:
    """Of every image with three or more copies of one object: the tokens of their equal patches, less the first copy's.

    Per place, means over images: the share of the differences' variance in three components, the purity of as many
    clusters there as there are differences of two objects, and the purity when the objects' names are permuted. Tokens
    that hold positions alone have pure clusters too: the random twin says how pure.

    Raises:
        ValueError: no image with copies that lie on the grid in the same way.
    """
    found: dict[str, list[list[float]]] = {VARIANCE: [], PURITY: [], CHANCE: []}
    example, images = None, 0
    generator = torch.Generator().manual_seed(seed)
    for batch in DataLoader(dataset, batch_size, collate_fn=collate):
        if batch.segmentation is None:
            raise ValueError("images with identical objects need a segmentation; take a data set that has one.")
        whole = patch_labels(batch.segmentation, encoder.grid, purity=1.0, ignore=(BACKGROUND,)).labels
        copies = [identical_patches(*of, encoder.grid) for of in zip(batch.images, whole, strict=True)]
        images += len(copies)
        usable = [number for number, places in enumerate(copies) if places is not None]
        if not usable:
            continue
        tokens = encoder(on_device(batch, device)).float().cpu()  # (L B N D)
        for number in usable:
            of_image = [_differences(layer[copies[number]], seed) for layer in tokens[:, number]]
            example = example or Example(model, encoder.places, of_image)
            found[VARIANCE].append([float(one.explained.sum()) for one in of_image])
            found[PURITY].append([one.purity for one in of_image])
            found[CHANCE].append([_chance(one, generator) for one in of_image])
    if example is None:
        raise ValueError(
            f"none of the {images} images shows three copies of an object on the grid {encoder.grid} in the same way; "
            f"give a data set that does, such as TwinScenes with `lattice` at the patch size."
        )
    rows = []
    for measure, values in found.items():
        by_place = torch.tensor(values, dtype=torch.float64).mT  # (L images)
        for place, mine in zip(encoder.places, by_place, strict=True):
            interval = over_images(PerImage(mine, torch.ones_like(mine, dtype=torch.bool)), seed=seed)
            about: dict[str, Any] = {"model": model, "probe": IDENTICAL, "place": place, "chosen": False}
            counts = {"dropped": images - len(mine)}
            rows.append(about | {"measure": measure} | asdict(interval) | counts)
    return rows, example


def _differences(tokens: Tensor, seed: int) -> Differences:
    """tokens (O m D) of copies."""
    most = min((len(tokens) - 1) * tokens.shape[1], tokens.shape[2])
    return identical_differences(tokens, min(COMPONENTS, most), seed)


def _chance(found: Differences, generator: torch.Generator) -> float:
    objects, patches = found.clusters.shape
    names = torch.arange(objects).repeat_interleave(patches)
    drawn = [names[torch.randperm(len(names), generator=generator)] for _ in range(PERMUTATIONS)]
    return sum(purity(found.clusters.flatten(), permuted) for permuted in drawn) / PERMUTATIONS


def differences_table(rows: Sequence[Row]) -> Table:
    """One line per place, one column per model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    images = rows[0]["images"]
    drawn = Table(
        title=f"Differences between identical objects: {images} images",
        caption=f"Purity of clusters of token differences in {COMPONENTS} components, with a 95 % bootstrap interval"
        " over images (by chance); then the share of the variance in them. 1: one vector per object, whatever the patch"
        " shows. Positions do as much: compare with the random twin.",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for column in ("layer", *models):
        drawn.add_column(column, justify="left" if column == "layer" else "right")
    for place in dict.fromkeys(row["place"] for row in rows):
        cells = []
        for model in models:
            mine = [row for row in rows if (row["model"], row["place"]) == (model, place)]
            pure, chance, variance = (value_of(mine, measure=name) for name in (PURITY, CHANCE, VARIANCE))
            if pure is None or chance is None or variance is None:
                cells.append("-")
            else:
                interval = f"{pure['value']:.3f} \\[{pure['low']:.3f}, {pure['high']:.3f}]"
                cells.append(f"{interval} ({chance['value']:.3f}), {variance['value']:.0%}")
        drawn.add_row(place, *cells)
    return drawn


def draw_differences(examples: Sequence[Example], path: Path) -> Path:
    """Write a PNG: a row per model, up to eight places; the differences of one image in their first two components,
    a colour per object. They are scaled place by place."""
    widest = max(min(MOST_PLACES, len(example.places)) for example in examples)
    size = (LEFT + widest * (TILE + GAP), len(examples) * (TOP + TILE + GAP))
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for line, example in enumerate(examples):
        top = line * (TOP + TILE + GAP) + TOP
        pen.text((GAP, top), example.model, "black", font)
        count = len(example.places)
        shown = sorted({*np.linspace(0, count - 1, min(MOST_PLACES, count)).round().astype(int).tolist()})
        for column, place in enumerate(shown):
            left = LEFT + column * (TILE + GAP)
            pen.text((left, top - 14), example.places[place], "black", font)
            pen.rectangle((left, top, left + TILE, top + TILE), outline="#e3e6ea")
            points = example.differences[place].projections  # (O - 1, m, k)
            flat = torch.nn.functional.pad(points, (0, 2))[..., :2]
            reach = max(float(flat.abs().max()), math.ulp(0.0))
            for number, several in enumerate(flat.tolist()):
                for x, y in several:
                    middle = (left + TILE * (0.5 + 0.45 * x / reach), top + TILE * (0.5 - 0.45 * y / reach))
                    corners = (middle[0] - 2, middle[1] - 2, middle[0] + 2, middle[1] + 2)
                    pen.ellipse(corners, COLORS[number % len(COLORS)])
    return write_atomically(path, lambda temporary: picture.save(temporary, "PNG"))

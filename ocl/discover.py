"""Object discovery in one table: masks against true segmentations, beside baselines that see nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor

from ocl.masks.base import Masks, MaskSource
from ocl.masks.label_maps import paint
from ocl.masks.sources import grid_labels
from ocl.metrics.image_mean import PerImage
from ocl.metrics.labels import UNCLAIMED
from ocl.metrics.segmentation import SegmentationMetrics, segmentation_measures
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots

Rows = list[dict[str, Any]]


@torch.no_grad()
def discover(
    encoders: Mapping[str, ObjectEncoder | MaskSource],
    batches: Iterable[Batch],
    *,
    recorded: Mapping[str, Iterable[Batch]] | None = None,
    background: bool = False,
    seed: int = 0,
) -> Rows:
    """Segmentation measures of masks, of grids with about as many cells as an encoder has slots, and of one whole mask.

    Args:
        encoders: name -> encoder with masks (B K h w), or mask source; hard masks that overlap are painted, the highest
            score on top.
        batches: images with "segmentation"; read once.
        recorded: name -> the same images in the same batches, whose segmentations are measured like predictions: those
            of another person, or masks that another program left in files.
        background: see `SegmentationMetrics`.
        seed: of the bootstrap.

    Returns:
        One row per name and measure: name, measure, value (mean over the images where it is defined), low, high (95 %
        percentile bootstrap over images), images (how many counted).

    Raises:
        ValueError: an encoder without masks, batches without a segmentation, recorded images that are not the same, a
            name that is there twice, or a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    slots = sorted({encoder.num_slots for encoder in encoders.values() if isinstance(encoder, ObjectEncoder)})
    recorded = recorded or {}
    cells = [(rows := max(1, round(count**0.5)), max(1, round(count / rows))) for count in slots]
    grids = {f"grid {rows} x {columns}": (rows, columns) for rows, columns in cells}
    names = [*encoders, *recorded, *grids, "whole image"]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"every row of the table needs a name of its own, {', '.join(twice)} is there twice; rename it."
        )
    found: dict[str, list[dict[str, PerImage]]] = {}
    for batch, *others in _together(batches, recorded):
        if batch.segmentation is None:
            raise ValueError("discover needs images with a true segmentation; this data set gives none.")
        size = (int(batch.segmentation.shape[-2]), int(batch.segmentation.shape[-1]))
        predictions = {name: _prediction(name, encoder(batch)) for name, encoder in encoders.items()}
        for name, other in zip(recorded, others, strict=True):
            if other.segmentation is None or not torch.equal(other.images, batch.images):
                raise ValueError(f"{name} must hold segmentations of the same images in the same order.")
            predictions[name] = (other.segmentation, None)
        for name, (rows, columns) in grids.items():
            predictions[name] = (grid_labels(size, rows, columns).expand(len(batch), -1, -1), None)
        predictions["whole image"] = (torch.zeros(len(batch), *size, dtype=torch.long), None)
        for name, (prediction, valid) in predictions.items():
            measures = segmentation_measures(prediction, batch.segmentation, valid, background)
            found.setdefault(name, []).append(measures)
    generator = np.random.default_rng(seed)
    return [
        {"name": name, "measure": measure, **_summary([part[measure] for part in parts], generator)}
        for name, parts in found.items()
        for measure in SegmentationMetrics.names
    ]


def table(rows: Rows, title: str = "Object discovery") -> Table:
    """Names down, measures across, means and below them 95 % intervals."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    drawn = Table(title=title, box=box.SIMPLE_HEAD)
    drawn.add_column("masks")
    for measure in measures:
        drawn.add_column(measure.replace("_", " "), justify="right")
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [row for row in rows if row["name"] == name]
        drawn.add_row(name, *(f"{cell['value']:.3f}\n{cell['low']:.2f}..{cell['high']:.2f}" for cell in cells))
    return drawn


def _together(batches: Iterable[Batch], recorded: Mapping[str, Iterable[Batch]]) -> Iterator[tuple[Batch, ...]]:
    """The batches beside the recorded ones."""
    for parts in zip_longest(batches, *recorded.values()):
        if lacking := [name for name, part in zip(("batches", *recorded), parts, strict=True) if part is None]:
            raise ValueError(
                f"{' and '.join(lacking)} ended before the others; give the same images in the same order."
            )
        yield tuple(part for part in parts if part is not None)


def _prediction(name: str, output: Slots | Masks) -> tuple[Tensor, Tensor | None]:
    """What the measures take: a label map from hard masks, soft masks with their flags otherwise."""
    if output.masks is None:
        raise ValueError(f"{name} gives no masks; discovery needs an encoder with masks.")
    if isinstance(output, Masks) and output.masks.dtype == torch.bool:
        names = torch.arange(output.masks.shape[1], device=output.masks.device)
        return paint(output, names.expand(len(output), -1), UNCLAIMED), None
    return output.masks, output.valid


def _summary(parts: list[PerImage], generator: np.random.Generator, resamples: int = 1000) -> dict[str, float]:
    values = torch.cat([part.values[part.counted] for part in parts]).cpu().numpy()
    if len(values) == 0:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "images": 0}
    means = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "images": len(values)}

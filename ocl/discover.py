"""Object discovery in one table: an encoder's masks against true segmentations, beside baselines that see nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from ocl.metrics.image_mean import PerImage
from ocl.metrics.segmentation import SegmentationMetrics, segmentation_measures
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch

Rows = list[dict[str, Any]]


def grid_labels(size: tuple[int, int], rows: int, columns: int) -> Tensor:
    """(H W) labels of a rows x columns checkerboard of equal cells: the best blind guess at scattered objects."""
    y = torch.arange(size[0]) * rows // size[0]
    x = torch.arange(size[1]) * columns // size[1]
    return y[:, None] * columns + x


@torch.no_grad()
def discover(
    encoders: dict[str, ObjectEncoder], batches: Iterable[Batch], *, background: bool = False, seed: int = 0
) -> Rows:
    """Segmentation measures of each encoder's masks, of grids with about as many cells as slots, and of one whole mask.

    Args:
        encoders: name -> encoder with masks (B K h w).
        batches: images with "segmentation"; read once.
        background: see `SegmentationMetrics`.
        seed: of the bootstrap.

    Returns:
        One row per name and measure: name, measure, value (mean over the images where it is defined), low, high (95 %
        percentile bootstrap over images), images (how many counted).

    Raises:
        ValueError: an encoder without masks or batches without a segmentation.
    """
    slots = sorted({encoder.num_slots for encoder in encoders.values()})
    found: dict[str, list[dict[str, PerImage]]] = {}
    for batch in batches:
        if batch.segmentation is None:
            raise ValueError("discover needs images with a true segmentation; this data set gives none.")
        size = (int(batch.segmentation.shape[-2]), int(batch.segmentation.shape[-1]))
        predictions: dict[str, tuple[Tensor, Tensor | None]] = {}
        for name, encoder in encoders.items():
            output = encoder(batch)
            if output.masks is None:
                raise ValueError(f"{name} gives no masks; discovery needs an encoder with masks.")
            predictions[name] = (output.masks, output.valid)
        for count in slots:
            rows = max(1, round(count**0.5))
            columns = max(1, round(count / rows))
            labels = grid_labels(size, rows, columns).expand(len(batch), -1, -1)
            predictions[f"grid {rows} x {columns}"] = (labels, None)
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
    """Names down, measures across, means with 95 % intervals."""
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    drawn = Table(title=title)
    drawn.add_column("masks")
    for measure in measures:
        drawn.add_column(measure.replace("_", " "), justify="right")
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = [row for row in rows if row["name"] == name]
        drawn.add_row(name, *(f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]" for cell in cells))
    return drawn


def _summary(parts: list[PerImage], generator: np.random.Generator, resamples: int = 1000) -> dict[str, float]:
    values = torch.cat([part.values[part.counted] for part in parts]).cpu().numpy()
    if len(values) == 0:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "images": 0}
    means = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "images": len(values)}

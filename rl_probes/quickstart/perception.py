"""What the slots of held-out scenes show: masks, pictures, and what probes read out of stored features."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ocl.data.collate import collate
from ocl.features import extract
from ocl.files import write_atomically
from ocl.metrics.segmentation import segmentation_measures
from ocl.pictures import slot_grid
from ocl.probes import LabelledSlots, probe_properties
from ocl.report import as_png
from ocl.representations import FrozenSlotModel
from ocl.shapes import Batch
from ocl.store import FeatureStore
from rl_probes.quickstart.jobs import Job
from rl_probes.quickstart.stages import Row, Stage, row
from rl_probes.quickstart.subjects import HELD_OUT, PROBED, Subject, decode, image_size_of, scenes

PICTURE = "slots.png"
PICTURED = 6


def job(folder: Path, subject: Subject, images: int, held_out: int, seed: int) -> Job:
    """`measure` as a stage."""
    settings = {"encoder": subject.encoder().fingerprint, "images": images, "held_out": held_out}
    return Job(
        f"perception: {subject.title}",
        Stage(folder / "perception" / subject.name, settings, seed),
        partial(measure, subject=subject, images=images, held_out=held_out, seed=seed),
    )


def measure(folder: Path, subject: Subject, images: int, held_out: int, seed: int) -> list[Row]:
    """Segmentation of `held_out` scenes, where the subject has masks, and property probes fitted on `images` others."""
    encoder = subject.encoder()
    size = image_size_of(encoder)
    rows: list[Row] = []
    if subject.checkpoint is not None:
        masking = subject.masking_encoder()
        tested = DataLoader(scenes(held_out, HELD_OUT, size), 64, collate_fn=collate)
        rows += _segmentation(subject.name, masking, iter(tested), seed)
        write_atomically(folder / PICTURE, lambda path: path.write_bytes(as_png(_grid(masking, size))))
    stores = {
        part: extract(encoder, scenes(count, of, size), folder / "features" / part, progress=False)
        for part, count, of in (("train", images, PROBED), ("test", held_out, HELD_OUT))
    }
    train, test = (_labelled(store) for store in stores.values() if store is not None)
    report = probe_properties(train, test, seed=seed)
    report.save(folder / "probe.json")
    for found in report.rows:
        name = f"probe/{subject.name}/{found.property}/{found.probe}/{found.measure}"
        unit = "R2" if found.measure == "r2" else "fraction"
        yardsticks = {"shuffled": found.shuffled, "chance": found.chance}
        rows.append(row(name, found.value, unit, seed, "held-out scenes", **yardsticks))
    return rows


def _segmentation(name: str, encoder: FrozenSlotModel, batches: Iterator[Batch], seed: int) -> list[Row]:
    """Means over scenes, as `SegmentationMetrics` takes them, with intervals of 1.96 standard errors."""
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        masks = encoder(batch).masks
        assert masks is not None
        assert batch.segmentation is not None
        for metric, measure in segmentation_measures(masks, batch.segmentation).items():
            parts.setdefault(metric, []).append(measure.values[measure.counted])
    rows = []
    for metric, values in parts.items():
        scores = torch.cat(values)
        mean, margin = float(scores.mean()), 1.96 * float(scores.std() / len(scores) ** 0.5)
        interval = {"low": mean - margin, "high": mean + margin}
        rows.append(row(f"segmentation/{name}/{metric}", mean, "index", seed, "held-out scenes", **interval))
    return rows


def _grid(encoder: FrozenSlotModel, size: int) -> Tensor:
    """(3 H W) uint8: scenes, reconstructions, overlays and slots."""
    drawn = scenes(PICTURED, HELD_OUT, size)
    images = collate([drawn[index] for index in range(PICTURED)]).images
    decoded = decode(encoder, images)
    return slot_grid(images, decoded.masks, decoded.prediction if decoded.prediction.ndim == 4 else None)


def _labelled(store: FeatureStore) -> LabelledSlots:
    """A store as what probes learn from: everything in it that is not the slots is an attribute of the objects."""
    fields = {name: torch.from_numpy(array) for name, array in store.read_all().items()}
    return LabelledSlots(fields.pop("vectors").float(), fields.pop("valid"), fields)

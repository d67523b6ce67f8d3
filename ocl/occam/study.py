"""One seed of the study: classifiers, every source of masks, rows and pictures, all in the seed's own folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ocl.data.collate import collate
from ocl.data.scenes import Item
from ocl.describe import describe_part
from ocl.files import read_json, write_json
from ocl.masks.apply import MaskApplication
from ocl.masks.base import MaskSource, networks_of
from ocl.masks.foreground import ForegroundScore
from ocl.masks.segments import SegmentClassifier
from ocl.masks.selection import Selection
from ocl.occam.answers import answer
from ocl.occam.ensembles import Ensemble
from ocl.occam.labels import groups_of
from ocl.occam.rows import Row, rows_of
from ocl.occam.sheet import Sheet
from ocl.shapes import Batch

SETTINGS, ROWS, PICTURE = "settings.json", "rows.json", "selected.png"


@dataclass(frozen=True)
class Study:
    """What is compared, the same for all seeds; see `ocl.occam.command.occam`."""

    dataset: Dataset[Item]
    ensemble: Ensemble
    application: MaskApplication
    sources: Mapping[str, MaskSource]
    scores: Sequence[ForegroundScore]
    selections: Mapping[str, Selection]
    sheet: Sheet
    batch_size: int = 128
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.sources or not self.scores or not self.selections:
            raise ValueError("a study needs at least one source of masks, one foreground score and one selection.")
        names = [score.name for score in self.scores]
        if len(set(names)) < len(names):
            raise ValueError(f"foreground scores must have different names, got {', '.join(names)}.")
        if self.sheet.source not in self.sources or self.sheet.score not in names:
            raise ValueError(
                f"the sheet shows {self.sheet.score!r} on {self.sheet.source!r}; there are the scores "
                f"{', '.join(names)} and the sources {', '.join(self.sources)}."
            )

    def run(self, seed: int, folder: Path) -> list[Row]:
        """Train what is not trained and measure what is not measured; a finished seed is only read.

        Raises:
            ValueError: the folder holds a seed of another study.
        """
        settings, path = self.settings(), folder / SETTINGS
        if path.is_file() and read_json(path) != settings:
            raise ValueError(
                f"{folder} holds a seed of another study (see its {SETTINGS}); name another folder, or delete that one."
            )
        write_json(path, settings)
        if (folder / ROWS).is_file() and (folder / PICTURE).is_file():
            return list(read_json(folder / ROWS))
        members = [member.to(self.device) for member in self.ensemble(self.application, folder, seed)]
        for network in networks_of([*self.sources.values(), self.application]):
            network.to(self.device)
        classifier = SegmentClassifier(self.application, members)
        rows: list[Row] = []
        names, ratios = self.group_names(), getattr(self.dataset, "group_ratios", None)
        with torch.no_grad():
            for name, source in self.sources.items():
                answers = answer(self._batches(), source, classifier, self.scores, self.selections)
                rows += rows_of(name, answers, self.scores, classifier.classes, names, seed, ratios)
            batch = next(self._batches())
            score = next(score for score in self.scores if score.name == self.sheet.score)
            source = self.sources[self.sheet.source]
            self.sheet.draw(batch, source, self.application, classifier, score, folder / PICTURE)
        write_json(folder / ROWS, rows)
        return rows

    def settings(self) -> dict[str, Any]:
        """Everything that decides the rows, in JSON's types."""
        parts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "device"}
        return dict(json.loads(json.dumps({name: describe_part(part) for name, part in parts.items()})))

    def group_names(self) -> Sequence[str]:
        """The data set's own `group_names`, or numbers up to the largest group in it."""
        named: Sequence[str] | None = getattr(self.dataset, "group_names", None)
        if named is not None:
            return named
        largest = max(int(groups_of(batch).max()) for batch in self._batches())
        return [f"group {number}" for number in range(largest + 1)]

    def _batches(self) -> Iterator[Batch]:
        for batch in DataLoader(self.dataset, self.batch_size, collate_fn=collate):
            batch.images = batch.images.to(self.device)
            if batch.segmentation is not None:
                batch.segmentation = batch.segmentation.to(self.device)
            batch.objects = {name: values.to(self.device) for name, values in batch.objects.items()}
            yield batch

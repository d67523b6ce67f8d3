"""Write a data set once: items to disk in shards, resumable, by several workers, read back by `StoredScenes`."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import cast

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ocl.data.scenes import Item
from ocl.data.stored import StoredScenes
from ocl.describe import describe_dataset
from ocl.files import remove_leftovers
from ocl.manifest import versions, write_manifest
from ocl.store import INDEX, ShardWriter

VERSIONS = ("ocl-research", "numpy", "scipy", "pillow")
READ_AT_ONCE = 64


def generate(
    dataset: Dataset[Item],
    folder: str | Path,
    *,
    description: str | None = None,
    shard_size: int = 1024,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> StoredScenes | None:
    """Write every item of `dataset`, in order and in its own types, into a store.

    Killed at any moment and started again with the same arguments, it goes on after the last whole shard and ends with
    the same bytes. Processes 0..workers - 1, on any machines that share the folder, each write every `workers`-th
    shard; whichever sees the last one written adds the index.

    Args:
        description: says which data these are, and must differ where the data differ; None takes the data set's class
            and its plain attributes (sizes, seeds).
        shard_size: items per file.
        num_workers: processes that draw or read items.
        progress: show a bar on the terminal.

    Returns:
        The finished data set, None while shards of other workers are missing.

    Raises:
        ValueError: the folder holds another data set, or items differ in fields, shapes or types.
    """
    installed = versions()
    categories = getattr(dataset, "categories", {})
    provenance = {
        "dataset": describe_dataset(dataset) if description is None else description,
        "categories": {name: list(classes) for name, classes in categories.items()},
        "versions": {name: installed[name] for name in VERSIONS if name in installed},
    }
    writer = ShardWriter(folder, provenance, len(cast(Sized, dataset)), shard_size)
    todo = writer.missing(worker, workers)
    if workers == 1:
        remove_leftovers(writer.folder)  # nobody else writes here
    pieces = [rows[i : i + READ_AT_ONCE] for rows in map(writer.range, todo) for i in range(0, len(rows), READ_AT_ONCE)]
    loader = DataLoader(dataset, batch_sampler=pieces, num_workers=num_workers, collate_fn=_stacked)  # type: ignore[arg-type]
    columns = (TextColumn("generate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (progress and todo)) as bar:
        task = bar.add_task("", total=sum(map(len, pieces)))
        drawn = iter(loader)
        for shard in todo:
            parts: list[Item] = []
            while sum(len(part["images"]) for part in parts) < len(writer.range(shard)):
                parts.append(next(drawn))
                bar.advance(task, len(parts[-1]["images"]))
            writer.write(shard, {name: values.numpy() for name, values in _joined(torch.cat, parts).items()})
    if writer.missing():
        return None
    if todo or not (writer.folder / INDEX).is_file():
        writer.finalize()
        write_manifest(folder, config=provenance, seed=getattr(dataset, "seed", None))
    return StoredScenes(folder)


def _stacked(items: Sequence[Item]) -> Item:
    return _joined(torch.stack, items)


def _joined(join: Callable[[list[Tensor]], Tensor], parts: Sequence[Item]) -> Item:
    """One dictionary from many."""
    names = parts[0].keys()
    if "images" not in names or any(part.keys() != names for part in parts):
        raise ValueError('All items of a data set must hold "images" and the same other fields.')
    try:
        return {name: join([part[name] for part in parts]) for name in names}
    except RuntimeError as error:
        raise ValueError(f"All items of a data set must have the same shapes ({error}).") from error

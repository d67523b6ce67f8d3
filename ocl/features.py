"""Frozen features to disk, once: encoder and data set in, feature store out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ocl.data.collate import collate
from ocl.describe import class_path, describe_dataset
from ocl.manifest import versions, write_manifest
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots
from ocl.store import INDEX, FeatureStore, ShardWriter

VERSIONS = ("ocl-research", "torch", "torchvision", "timm", "numpy")
DTYPES = ("float16", "float32")

Record = dict[str, NDArray[Any]]
"""Named arrays (B ...) of a batch."""


def extract(
    encoder: ObjectEncoder,
    dataset: Dataset[dict[str, Tensor]],
    folder: str | Path,
    *,
    description: str | None = None,
    labels: Sequence[str] | None = None,
    masks: bool = False,
    dtype: str = "float16",
    shard_size: int = 10_000,
    batch_size: int = 64,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> FeatureStore | None:
    """Encode every item of `dataset` into a store of records in the data set's order.

    Fields: "vectors" (K D) in `dtype`, zero where not valid; "valid" (K) bool; with `masks` also "masks" (K h w) uint8,
    255 for one; and the labels under their own names.

    Killed at any moment and started again with the same arguments, it goes on after the last whole shard and ends with
    the same bytes. Processes 0..workers - 1, on any machines that share the folder, each write every `workers`-th
    shard; whichever sees the last one written adds the index.

    Args:
        description: says which data these are, and must differ where the data differ; None takes the data set's class
            and its plain public attributes (sizes, seeds, paths), inner data sets included.
        labels: names in `Batch.objects` to store, and "segmentation" (H W) as int16; None takes all attributes.
        batch_size: images encoded at once; part of the provenance, since it moves the last bits.
        num_workers: processes that read the data set.
        progress: show a bar on the terminal.

    Returns:
        The finished store, None while shards of other workers are missing.

    Raises:
        ValueError: the folder holds features of another encoder or data set; features that are not finite or, in
            float16, beyond 65504; an unknown label.
    """
    if dtype not in DTYPES or batch_size < 1:
        raise ValueError(f"dtype must be one of {DTYPES} and batch_size positive, got {dtype!r} and {batch_size}.")
    provenance = {
        "fingerprint": encoder.fingerprint,
        "encoder": {"class": class_path(encoder), "num_slots": encoder.num_slots, "dim": encoder.dim},
        "dataset": describe_dataset(dataset) if description is None else description,
        "labels": None if labels is None else list(labels),
        "masks": masks,
        "dtype": dtype,
        "batch_size": batch_size,
        "versions": installed_versions(),
    }
    writer = ShardWriter(folder, provenance, len(cast(Sized, dataset)), shard_size)
    encoder = encoder.to(device)

    def encode(batch: Batch, rows: list[int]) -> Record:
        return _record(encoder, batch, labels, masks, np.dtype(dtype))

    return fill(writer, dataset, encode, batch_size, num_workers, worker, workers, device, progress)


def fill(
    writer: ShardWriter,
    dataset: Dataset[dict[str, Tensor]],
    encode: Callable[[Batch, list[int]], Record],
    batch_size: int,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> FeatureStore | None:
    """Write the missing shards of a store, one record per item; see `extract` for who may do it and when.

    Args:
        encode: a batch on `device` and the numbers of its items -> named arrays (B ...), a function of these alone.
    """
    todo = writer.missing(worker, workers)
    batches = [
        list(rows[i : i + batch_size]) for rows in map(writer.range, todo) for i in range(0, len(rows), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
    columns = (TextColumn("extract"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("", total=sum(map(len, batches)))
        records = (encode(_moved(batch, device), rows) for batch, rows in zip(loader, batches, strict=True))
        for shard in todo:
            parts: list[Record] = []
            for _ in range(0, len(writer.range(shard)), batch_size):  # no batch crosses shards
                parts.append(next(records))
                bar.advance(task, len(next(iter(parts[-1].values()))))
            writer.write(shard, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
    if writer.missing():
        return None
    if todo or not (writer.folder / INDEX).is_file():
        writer.finalize()
        write_manifest(writer.folder, config=writer.provenance, seed=None)
    return FeatureStore(writer.folder, expect_fingerprint=writer.provenance["fingerprint"])


def installed_versions() -> dict[str, str]:
    """Of the packages that can change a feature."""
    installed = versions()
    return {key: installed[key] for key in VERSIONS if key in installed}


def as_slots(records: Mapping[str, NDArray[Any]]) -> Slots:
    """Records of a store (n ...) as `Slots` in float32."""
    masks = torch.from_numpy(records["masks"]).float() / 255 if "masks" in records else None
    return Slots(torch.from_numpy(records["vectors"]).float(), masks, torch.from_numpy(records["valid"]))


def stored_as(values: Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values in the store's type.

    Raises:
        ValueError: values that are not finite, or beyond the type.
    """
    vectors = values.float().cpu().numpy()
    largest = float(np.abs(vectors).max(initial=0))
    if not np.isfinite(vectors).all():
        raise ValueError("The encoder's vectors are not finite; it diverged in training or its input is broken.")
    if largest > float(np.finfo(dtype).max):
        raise ValueError(f"The encoder's vectors reach {largest:.3g}, beyond {dtype}; extract with dtype='float32'.")
    return np.asarray(vectors, dtype)


def _record(
    encoder: ObjectEncoder, batch: Batch, labels: Sequence[str] | None, masks: bool, dtype: np.dtype[Any]
) -> Record:
    slots = encoder(batch)
    vectors = slots.vectors.masked_fill(~slots.valid.unsqueeze(-1), 0)
    fields = {"vectors": stored_as(vectors, dtype), "valid": slots.valid.cpu().numpy()}
    if masks:
        if slots.masks is None:
            raise ValueError(f"{type(encoder).__name__} gives no masks; extract without them.")
        fields["masks"] = (slots.masks.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    known = batch.objects if batch.segmentation is None else {**batch.objects, "segmentation": batch.segmentation}
    for name in batch.objects if labels is None else labels:
        if name not in known or name in ("vectors", "valid", "masks"):
            raise ValueError(f"The data set gives no label {name!r}; it gives {', '.join(sorted(known)) or 'none'}.")
        label = known[name].to(torch.int16) if name == "segmentation" else known[name]
        fields[name] = label.cpu().numpy()
    return fields


def _moved(batch: Batch, device: str | torch.device) -> Batch:
    segmentation = None if batch.segmentation is None else batch.segmentation.to(device)
    objects = {name: tensor.to(device) for name, tensor in batch.objects.items()}
    return Batch(batch.images.to(device), segmentation, objects)

"""Frozen features to disk, once: encoder and data set in, feature store out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ocl.bfloat16 import array_of, tensor_of
from ocl.data.collate import collate
from ocl.describe import class_path, describe_dataset
from ocl.encoders.cached import identity
from ocl.manifest import versions, write_manifest
from ocl.representations import ObjectEncoder, Tokens
from ocl.shapes import Batch, Slots
from ocl.store import INDEX, FeatureStore, ShardWriter

VERSIONS = ("ocl-research", "torch", "torchvision", "timm", "numpy")
DTYPES = ("bfloat16", "float16", "float32")

Record = dict[str, Tensor]
"""Named tensors (B ...) of a batch."""


class Filling(TypedDict, total=False):
    """How a store is filled, whatever with; see `fill`."""

    description: str | None
    dtype: str
    shard_size: int
    batch_size: int
    num_workers: int
    worker: int
    workers: int
    device: str | torch.device
    progress: bool


class Fingerprinted(Protocol):
    """An encoder that says which one it is, such as an `ObjectEncoder`."""

    @property
    def fingerprint(self) -> str: ...

    def to(self, device: str | torch.device) -> Any: ...


def extract(
    encoder: ObjectEncoder,
    dataset: Dataset[dict[str, Tensor]],
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    masks: bool = False,
    **filling: Unpack[Filling],
) -> FeatureStore | None:
    """Encode every item of `dataset` into a store of records in the data set's order.

    Fields: "vectors" (K D) in `dtype`, zero where not valid; "valid" (K) bool; with `masks` also "masks" (K h w) uint8,
    255 for one; and the labels under their own names.

    Args:
        labels: names in `Batch.objects` to store, and "segmentation" (H W) as int16; None takes all attributes.
        filling: see `fill`, also for who may be killed when and how several processes share the work.

    Returns:
        The finished store, None while shards of other workers are missing.

    Raises:
        ValueError: the folder holds features of another encoder or data set; features that are not finite or beyond
            `dtype`; an unknown label.
    """
    about: dict[str, Any] = {"class": class_path(encoder), "num_slots": encoder.num_slots, "dim": encoder.dim}
    if isinstance(encoder, Tokens):  # whoever trains on the tokens may ask for the very same
        about["tokens"] = identity(encoder.encoder)
    provenance = {"encoder": about, "labels": None if labels is None else list(labels), "masks": masks}

    def encode(batch: Batch, rows: list[int]) -> tuple[Record, Record]:
        slots = encoder(batch)
        vectors = slots.vectors.masked_fill(~slots.valid.unsqueeze(-1), 0)
        kept = {"valid": slots.valid, **_labels(batch, labels)}
        if masks:
            if slots.masks is None:
                raise ValueError(f"{type(encoder).__name__} gives no masks; extract without them.")
            kept["masks"] = (slots.masks.float().clamp(0, 1) * 255).round().to(torch.uint8)
        return {"vectors": vectors}, kept

    return fill(folder, encoder, dataset, encode, provenance, **filling)


def fill(
    folder: str | Path,
    encoder: Fingerprinted,
    dataset: Dataset[dict[str, Tensor]],
    encode: Callable[[Batch, list[int]], tuple[Record, Record]],
    provenance: Mapping[str, Any],
    *,
    description: str | None = None,
    dtype: str = "float16",
    shard_size: int = 10_000,
    batch_size: int = 64,
    num_workers: int = 0,
    worker: int = 0,
    workers: int = 1,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> FeatureStore | None:
    """Write a store with one record per item.

    Killed at any moment and started again with the same arguments, it goes on after the last whole shard and ends with
    the same bytes. Processes 0..workers - 1, on any machines that share the folder, each write every `workers`-th
    shard; whichever sees the last one written adds the index.

    Args:
        encoder: what `encode` encodes with; is moved to `device`.
        encode: a batch on `device` and the numbers of its items -> what is stored in `dtype`, and what is stored as it
            is; a function of these alone.
        provenance: what else changes a record, besides the encoder's weights, the data and what follows.
        description: says which data these are, and must differ where the data differ; None takes the data set's class
            and its plain public attributes (sizes, seeds, paths), inner data sets included.
        dtype: bfloat16, float16 or float32.
        shard_size: records per file.
        batch_size: images encoded at once; part of the provenance, since it moves the last bits.
        num_workers: processes that read the data set.
        progress: show a bar on the terminal.

    Returns:
        The finished store, None while shards of other workers are missing.

    Raises:
        ValueError: the folder holds features of another origin; features that are not finite or beyond `dtype`.
    """
    if dtype not in DTYPES or batch_size < 1:
        raise ValueError(f"dtype must be one of {DTYPES} and batch_size positive, got {dtype!r} and {batch_size}.")
    whole = {
        **provenance,
        "fingerprint": encoder.fingerprint,
        "dataset": describe_dataset(dataset) if description is None else description,
        "dtype": dtype,
        "batch_size": batch_size,
        "versions": installed_versions(),
    }
    writer = ShardWriter(folder, whole, len(cast(Sized, dataset)), shard_size)
    encoder.to(device)
    todo = writer.missing(worker, workers)
    batches = [
        list(rows[i : i + batch_size]) for rows in map(writer.range, todo) for i in range(0, len(rows), batch_size)
    ]
    loader: DataLoader[Any] = DataLoader(dataset, batch_sampler=batches, num_workers=num_workers, collate_fn=collate)
    columns = (TextColumn("extract"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not (progress and todo)) as bar:
        task = bar.add_task("", total=sum(map(len, batches)))
        records = (
            _arrays(*encode(_moved(batch, device), rows), dtype) for batch, rows in zip(loader, batches, strict=True)
        )
        for shard in todo:
            parts: list[dict[str, NDArray[Any]]] = []
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
    return Slots(tensor_of(records["vectors"]).float(), masks, torch.from_numpy(records["valid"]))


def stored_as(values: Tensor, dtype: str) -> NDArray[Any]:
    """The values in a type of `DTYPES`, as an array.

    Raises:
        ValueError: values that are not finite, or beyond the type.
    """
    kind: torch.dtype = getattr(torch, dtype)
    values = values.float()
    largest = float(values.abs().max()) if values.numel() else 0.0
    if not math.isfinite(largest):
        raise ValueError("The encoder's vectors are not finite; it diverged in training or its input is broken.")
    if largest > torch.finfo(kind).max:
        raise ValueError(f"The encoder's vectors reach {largest:.3g}, beyond {dtype}; extract with dtype='float32'.")
    return array_of(values.to(kind))


def _arrays(features: Record, kept: Record, dtype: str) -> dict[str, NDArray[Any]]:
    rounded = {name: stored_as(values, dtype) for name, values in features.items()}
    return rounded | {name: array_of(values) for name, values in kept.items()}


def _labels(batch: Batch, labels: Sequence[str] | None) -> Record:
    known = batch.objects if batch.segmentation is None else {**batch.objects, "segmentation": batch.segmentation}
    found = {}
    for name in batch.objects if labels is None else labels:
        if name not in known or name in ("vectors", "valid", "masks"):
            raise ValueError(f"The data set gives no label {name!r}; it gives {', '.join(sorted(known)) or 'none'}.")
        found[name] = _as_int16(known[name]) if name == "segmentation" else known[name]
    return found


def _as_int16(segmentation: Tensor) -> Tensor:
    largest = int(segmentation.max())
    if largest > torch.iinfo(torch.int16).max:
        raise ValueError(f"the segmentation holds the label {largest}, beyond int16; number the objects of each image.")
    return segmentation.to(torch.int16)


def _moved(batch: Batch, device: str | torch.device) -> Batch:
    segmentation = None if batch.segmentation is None else batch.segmentation.to(device)
    objects = {name: tensor.to(device) for name, tensor in batch.objects.items()}
    return Batch(batch.images.to(device), segmentation, objects)

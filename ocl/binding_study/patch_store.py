"""Tokens of sampled patches on disk, once, in half precision: encoder and labelled images in, feature store out."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any, Unpack, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ocl.bfloat16 import tensor_of
from ocl.binding.labels import patch_labels, without
from ocl.binding.pairs import places_of, sample_patches
from ocl.binding.patches import Patches
from ocl.binding_study.patch_encoders import patch_encoder
from ocl.data.collate import collate
from ocl.describe import class_path
from ocl.features import Filling, Record, fill
from ocl.shapes import IGNORE, Batch, images_as_float
from ocl.store import FeatureStore


def extract_patches(
    encoder: nn.Module,
    dataset: Dataset[dict[str, Tensor]],
    folder: str | Path,
    *,
    patches: int = 64,
    grid: tuple[int, int] | None = None,
    purity: float = 0.0,
    ignore: Sequence[int] = (),
    leave_out: Sequence[str] = (),
    classes: str | None = None,
    seed: int = 0,
    **filling: Unpack[Filling],
) -> FeatureStore | None:
    """Encode every image once and keep n = `patches` patches of it in all L places of the encoder.

    Fields: "tokens" (L n D) in `dtype`; "patches" (n) int32, numbers of the patches in raster order, rising; "objects"
    (n) int32, what each shows, `IGNORE` where unknown; "classes" (n) int32, if asked for; "colours" (n 3) in `dtype`,
    the patch's mean colour in [0, 1].

    Which patches are kept is a function of `seed`, the item's number and its labels.

    Args:
        encoder: a `ViTLayers`, an `ObjectEncoder` or a `PatchEncoder`.
        dataset: items with "images" and "segmentation".
        grid: (h, w) patches, for encoders that have no grid of their own.
        purity, ignore: see `patch_labels`.
        leave_out: attributes (M) bool of the items; objects that have one of them count as unknown (stuff, crowds).
        classes: attribute (M) integer that holds the class of each object; background has none.
        seed: of the drawn patches.
        filling: see `ocl.features.fill`; here shards are of 256 records and batches of 32 images unless it says else.

    Returns:
        The finished store, None while shards of other workers are missing.

    Raises:
        ValueError: the folder holds features of another origin; items without segmentation or without a wanted
            attribute; tokens that are not finite or too large for `dtype`.
    """
    reader = patch_encoder(encoder, grid)
    total = reader.grid[0] * reader.grid[1]
    if not 1 <= patches <= total:
        raise ValueError(f"the grid {reader.grid} has {total} patches; 1 to {total} can be kept, not {patches}.")
    provenance = {
        "encoder": {"class": class_path(encoder), "places": reader.places, "grid": reader.grid, "dim": reader.dim},
        "labels": {"purity": purity, "ignore": sorted(ignore), "leave_out": list(leave_out), "classes": classes},
        "patches": {"count": patches, "seed": seed},
    }

    def encode(batch: Batch, rows: list[int]) -> tuple[Record, Record]:
        labels = objects_of(batch, reader.grid, purity, ignore, leave_out)
        drawn = sample_patches(labels, patches, rows, seed)
        objects = labels.gather(1, drawn)
        colours = F.adaptive_avg_pool2d(images_as_float(batch.images), reader.grid).flatten(2).mT  # (B N 3)
        tokens = reader(batch).take_along_dim(drawn[None, :, :, None], dim=2).transpose(0, 1)  # (B L n D)
        kept = {"patches": drawn.int(), "objects": objects.int()}
        if classes is not None:
            kept["classes"] = classes_of(batch, objects, classes).int()
        return {"tokens": tokens, "colours": colours.take_along_dim(drawn[:, :, None], dim=1)}, kept

    merged: Filling = {"shard_size": 256, "batch_size": 32, **filling}
    return fill(folder, reader, dataset, encode, provenance, **merged)


def load_patches(store: FeatureStore, images: ArrayLike | None = None, places: Sequence[str] | None = None) -> Patches:
    """Patches of a store in memory, tokens (L B n D) as they are stored.

    Args:
        images: records to take, all where None.
        places: names of the L places, all where None.

    Raises:
        ValueError: not a store of `extract_patches`, or unknown places.
    """
    if not {"tokens", "patches", "objects"} <= set(store.fields):
        raise ValueError(f"{store.folder} holds no patches but {sorted(store.fields)}; extract them with ocl binding.")
    known = list(store.provenance["encoder"]["places"])
    chosen = known if places is None else list(places)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"{store.folder} holds {', '.join(known)}; it does not hold {places!r}.")
    records = store.read(np.arange(len(store)) if images is None else images)
    tokens = records["tokens"][:, [known.index(name) for name in chosen]].swapaxes(0, 1)
    drawn = torch.from_numpy(records["patches"]).long()
    return Patches(
        tensor_of(np.ascontiguousarray(tokens)),
        torch.from_numpy(records["objects"]).long(),
        torch.from_numpy(records["classes"]).long() if "classes" in records else None,
        places_of(drawn, tuple(store.provenance["encoder"]["grid"])),
    )


def labels_at(
    dataset: Dataset[dict[str, Tensor]],
    patches: Tensor,
    grid: tuple[int, int],
    *,
    purity: float = 0.0,
    ignore: Sequence[int] = (),
    batch_size: int = 32,
) -> Tensor:
    """What another data set says of the same patches of the same images: (B n) int64.

    With the maps that two people drew in the same photographs, `BSDS500(..., annotator=0)` and `annotator=1`, this is
    the second person's side of human against human.

    Args:
        dataset: B items in the order of those that the patches were drawn from.
        patches: (B n) numbers of patches in raster order.
        grid: (h, w) that they are numbered on.
        purity, ignore: see `patch_labels`.

    Raises:
        ValueError: another number of items than B.
    """
    if len(cast(Sized, dataset)) != len(patches):
        raise ValueError(f"the data set has {len(cast(Sized, dataset))} items, the patches {len(patches)} images.")
    loader: DataLoader[Any] = DataLoader(dataset, batch_size, collate_fn=collate)
    labels = torch.cat([objects_of(batch, grid, purity, ignore, ()) for batch in loader])
    return labels.gather(1, patches.long())


def objects_of(
    batch: Batch, grid: tuple[int, int], purity: float, ignore: Sequence[int], leave_out: Sequence[str]
) -> Tensor:
    """(B N) int64, the object of every patch; see `extract_patches` for the arguments and errors."""
    segmentation = batch.segmentation
    if segmentation is None:
        raise ValueError("the items hold no segmentation, so patches have no objects; take a data set that has one.")
    if segmentation.shape[-2:] != batch.images.shape[-2:]:
        sizes = f"{tuple(segmentation.shape[-2:])}, its images {tuple(batch.images.shape[-2:])}"
        raise ValueError(f"the segmentation of the data set is {sizes}; they must be of one size.")
    for name in leave_out:
        segmentation = without(segmentation, _attribute(batch, name).bool())
    return patch_labels(segmentation, grid, purity, ignore).labels


def classes_of(batch: Batch, objects: Tensor, name: str) -> Tensor:
    """objects (B n) -> the class of each (B n), `IGNORE` for background and unknown ones."""
    classes = _attribute(batch, name)
    if classes.is_floating_point():
        raise ValueError(f"the attribute {name!r} is {classes.dtype}; a class is an integer.")
    if int(objects.max()) > classes.shape[1]:
        raise ValueError(f"a patch shows object {int(objects.max())}, but {name!r} knows {classes.shape[1]} objects.")
    return classes.long().gather(1, (objects - 1).clamp(min=0)).masked_fill(objects < 1, IGNORE)


def _attribute(batch: Batch, name: str) -> Tensor:
    if name not in batch.objects:
        raise ValueError(f"the data set gives no attribute {name!r}; it gives {', '.join(batch.objects) or 'none'}.")
    return batch.objects[name]

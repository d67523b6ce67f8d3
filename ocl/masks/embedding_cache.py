"""Vectors of segments on disk, so that another mask source, score or prompt costs nothing for what is encoded already.

A vector is found by its image's digest and its mask's, in a folder of its encoder and mask application. Shards are
named by their content, so several processes may write to one folder without locks, and a damaged shard does not fit its
name.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ocl.masks.base import Masks
from ocl.shards import open_shard, write_shard

FORMAT = "ocl-embeddings-1"
KEY = 32  # bytes: half for the image, half for the mask


def segment_keys(images: Tensor, masks: Masks) -> list[bytes]:
    """One key of 32 bytes for every valid mask, image by image: SHA-256 of the image's and of the mask's values.

    Boolean masks are packed to bits first. Type and size count too: a uint8 image and the same as floats differ.

    Args:
        images: (B 3 H W). masks: of the same images.
    """
    pixels, valid, stack = _array(images), masks.valid.cpu().numpy(), _array(masks.masks)
    packed = np.packbits(stack, axis=-1) if stack.dtype == bool else stack
    keys = []
    for image, row, segments in zip(pixels, valid, packed, strict=True):
        if row.any():
            first = _digest(image)
            keys += [first + _digest(segments[number]) for number in np.flatnonzero(row)]
    return keys


class EmbeddingCache:
    """Keys to vectors (D) float32, kept in `folder` and in the page cache.

    New vectors are written `shard_rows` at a time, and the rest on `flush()` or when the program ends; a killed program
    loses what was not yet written, and nothing else.

    Args:
        folder: of all caches; this one takes a folder in it named after `provenance`.
        provenance: JSON values that say what made the vectors: `describe_part` of encoder and mask application.
        dim: D.

    Raises:
        ValueError: a damaged shard, or one that does not belong here.
    """

    def __init__(self, folder: str | Path, provenance: Mapping[str, Any], dim: int, shard_rows: int = 4096) -> None:
        self.provenance = {"format": FORMAT, **json.loads(json.dumps(provenance))}
        name = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = Path(folder) / name
        self.dim = dim
        self._places: dict[bytes, tuple[int, int]] = {}  # key -> shard, row
        self._shards: list[NDArray[np.float32]] = []
        for path in sorted(self.folder.glob("[0-9a-f]*.safetensors")):
            self._read(path)
        self._new = _NewRows(self.folder, self.provenance, dim, shard_rows)
        self._shards.append(self._new.vectors)
        weakref.finalize(self, self._new.write)

    def __len__(self) -> int:
        return len(self._places)

    def get(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """n keys -> which are known (n) bool, and vectors (n D) float32, zero where not."""
        places = [self._places.get(key, (-1, 0)) for key in keys]
        shards, rows = np.array(places, np.int64).reshape(-1, 2).T
        vectors = np.zeros((len(keys), self.dim), np.float32)
        for shard in np.unique(shards[shards >= 0]):
            here = shards == shard
            vectors[here] = self._shards[shard][rows[here]]
        return shards >= 0, vectors

    def add(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """n keys with vectors (n D); those that are known already, or given twice, change nothing.

        Raises:
            ValueError: vectors of another shape, or that are not finite.
        """
        if vectors.shape != (len(keys), self.dim) or not np.isfinite(vectors).all():
            raise ValueError(f"vectors must be finite and ({len(keys)}, {self.dim}), got {vectors.shape}.")
        for key, vector in zip(keys, vectors, strict=True):
            if key not in self._places:
                self._places[key] = (len(self._shards) - 1, self._new.append(key, vector))
                if self._new.full:
                    self.flush()

    def flush(self) -> None:
        """Write what is only in memory."""
        path = self._new.write()
        if path is not None:
            self._shards[-1] = open_shard(path).arrays["vectors"]
            self._shards.append(self._new.vectors)

    def _read(self, path: Path) -> None:
        shard = open_shard(path)
        if shard.metadata != self.provenance or set(shard.arrays) != {"keys", "vectors"}:
            raise ValueError(f"{path} is no shard of these embeddings (another origin or content); delete it.")
        keys, vectors = shard.arrays["keys"], shard.arrays["vectors"]
        if keys.shape[1:] != (KEY,) or vectors.shape != (len(keys), self.dim):
            raise ValueError(
                f"{path} must hold {self.dim} numbers a row, got {keys.shape}, {vectors.shape}; delete it."
            )
        if _digest(keys, vectors).hex() != path.stem:
            raise ValueError(f"{path} was altered after it was written (its checksum differs); delete it.")
        places = ((bytes(key), (len(self._shards), row)) for row, key in enumerate(np.asarray(keys)))
        self._places.update(places)
        self._shards.append(vectors)


class _NewRows:
    """Rows that are not on disk yet. Apart from the cache, so that it can be written when the cache is gone."""

    def __init__(self, folder: Path, metadata: Mapping[str, Any], dim: int, rows: int) -> None:
        self.folder, self.metadata = folder, metadata
        self.shape = (rows, dim)
        self._clear()

    def _clear(self) -> None:
        self.keys: list[bytes] = []
        self.vectors = np.empty(self.shape, np.float32)

    @property
    def full(self) -> bool:
        return len(self.keys) == self.shape[0]

    def append(self, key: bytes, vector: NDArray[np.float32]) -> int:
        """The row's number."""
        self.vectors[len(self.keys)] = vector
        self.keys.append(key)
        return len(self.keys) - 1

    def write(self) -> Path | None:
        """Where to; None where there is nothing to write."""
        if not self.keys:
            return None
        keys = np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, KEY)
        vectors = self.vectors[: len(keys)]
        path = self.folder / f"{_digest(keys, vectors).hex()}.safetensors"
        write_shard(path, {"keys": keys, "vectors": vectors}, self.metadata)
        self._clear()
        return path


def _array(values: Tensor) -> NDArray[Any]:
    """NumPy has no bfloat16; its bits as integers, which neither images nor masks are, stand for it."""
    return (values.view(torch.int16) if values.dtype == torch.bfloat16 else values).cpu().numpy()


def _digest(*arrays: NDArray[Any]) -> bytes:
    """16 bytes, of types, shapes and values."""
    total = hashlib.sha256()  # the fastest of hashlib where processors have instructions for it
    for array in arrays:
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.digest()[: KEY // 2]

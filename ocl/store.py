"""Features on disk: a folder of safetensors shards and one `index.json`.

Record i is one dict of named arrays, usually "vectors" (K D), "valid" (K), "masks" (K h w) and labels. Shard s holds
the records [s * shard_size, (s + 1) * shard_size), so several workers write without locks, each its own shards, and
an interrupted one skips what exists. Every shard and the index carry the same provenance; stores never mix two.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ocl.bfloat16 import dtype_named, name_of
from ocl.files import read_json, write_json
from ocl.shards import DTYPES, Shard, open_shard, sha256_of, write_shard

FORMAT = "ocl-store-1"
INDEX = "index.json"


class Field(NamedTuple):
    """Shape and dtype of one named array of one record; bfloat16 as `ocl.bfloat16.BFLOAT16`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.safetensors"


def fields_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Field]:
    """Fields of arrays (n ...), sorted by name."""
    return {name: Field(array.shape[1:], array.dtype) for name, array in sorted(arrays.items())}


class ShardWriter:
    """Writes shards of `records` records in all; any number of workers may hold one for the same folder.

    provenance: JSON values that say where the features come from, the same for every worker. "fingerprint" is the
    encoder's. No times and no paths: equal provenance means equal bytes.
    """

    def __init__(
        self, folder: str | Path, provenance: Mapping[str, Any], records: int, shard_size: int = 10_000
    ) -> None:
        if records < 1 or shard_size < 1:
            raise ValueError(f"records and shard_size must be at least 1, got {records} and {shard_size}.")
        self.folder = Path(folder)
        self.provenance: dict[str, Any] = json.loads(json.dumps(provenance, sort_keys=True, allow_nan=False))
        self.records = records
        self.shard_size = shard_size

    @property
    def shards(self) -> int:
        return -(-self.records // self.shard_size)

    def range(self, shard: int) -> range:
        """The records of a shard."""
        return range(self.records)[shard * self.shard_size : (shard + 1) * self.shard_size]

    def missing(self, worker: int = 0, workers: int = 1) -> list[int]:
        """Of the shards worker, worker + workers, ..., those still to be written; damaged ones count as missing.

        Raises:
            ValueError: an existing shard has another provenance or another shard size.
        """
        if not 0 <= worker < workers:
            raise ValueError(f"worker must be in 0..{workers - 1}, got {worker}.")
        return [shard for shard in range(worker, self.shards, workers) if self._existing(shard) is None]

    def write(self, shard: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a whole shard: arrays (n ...) with n = len(self.range(shard))."""
        count = len(self.range(shard))
        for name, array in arrays.items():
            if array.ndim == 0 or len(array) != count or name_of(array.dtype) not in DTYPES.values():
                found = f"{array.dtype} {array.shape}"
                raise ValueError(f"shard {shard} needs {count} records of numbers in {name!r}, got {found}.")
        if not count or not arrays:
            raise ValueError(f"shard {shard} must be one of {self.shards} and hold at least one array.")
        write_shard(shard_path(self.folder, shard), arrays, self._metadata(shard))

    def finalize(self) -> Path:
        """Check every shard, add its checksum, and write `index.json`. Any worker may do it; the result is the same.

        Raises:
            ValueError: a shard is missing, damaged, or has other fields than the first.
        """
        entries, fields = [], None
        for number in range(self.shards):
            shard = self._existing(number)
            if shard is None:
                raise ValueError(f"{shard_path(self.folder, number)} is missing or damaged; run its worker again.")
            found = fields_of(shard.arrays)
            fields = found if fields is None else fields
            if found != fields:
                where = f"shard {number} of {self.folder}"
                raise ValueError(f"{where} has the fields {_text(found)}, shard 0 {_text(fields)}; extract it again.")
            path = shard_path(self.folder, number)
            entries.append(
                {"bytes": path.stat().st_size, "header_sha256": shard.header_sha256, "sha256": sha256_of(path)}
            )
        assert fields is not None
        index = {
            "format": FORMAT,
            "provenance": self.provenance,
            "records": self.records,
            "shard_size": self.shard_size,
            "fields": {
                name: {"shape": list(field.shape), "dtype": name_of(field.dtype)} for name, field in fields.items()
            },
            "shards": entries,
        }
        for leftover in self.folder.glob(".tmp-*-shard-*"):  # of killed workers; nobody writes shards any more
            leftover.unlink(missing_ok=True)
        return write_json(self.folder / INDEX, index)

    def _metadata(self, shard: int) -> dict[str, Any]:
        return {"format": FORMAT, "provenance": self.provenance, "shard": shard, "shard_size": self.shard_size}

    def _existing(self, number: int) -> Shard | None:
        """The shard where it is whole, None where it is absent or damaged."""
        try:
            shard = open_shard(shard_path(self.folder, number))
        except (FileNotFoundError, ValueError):
            return None
        if shard.metadata != self._metadata(number):
            raise ValueError(
                f"{self.folder} already holds features of another origin (shard {number} differs in "
                f"{_differences(shard.metadata, self._metadata(number))}); write to another folder."
            )
        whole = all(array.ndim and len(array) == len(self.range(number)) for array in shard.arrays.values())
        return shard if whole and shard.arrays else None


class FeatureStore:
    """Random reads from a finished store.

    verify: compare every shard with its checksum on opening (about a gigabyte per second, and leaves the store in the
    page cache); with False only sizes and headers are checked, and `verify()` does the rest when asked.

    Raises:
        FileNotFoundError: no index or a shard is missing.
        ValueError: damaged, altered, of another origin than its index says, or of another encoder than
            `expect_fingerprint`.
    """

    def __init__(self, folder: str | Path, *, expect_fingerprint: str | None = None, verify: bool = True) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise FileNotFoundError(f"{self.folder} holds no {INDEX}; it is no store or was not finished.")
        index = self._read_index()
        self.provenance: dict[str, Any] = index["provenance"]
        fingerprint = self.provenance.get("fingerprint")
        if expect_fingerprint is not None and fingerprint != expect_fingerprint:
            raise ValueError(f"{self.folder} was written by the encoder {fingerprint}, expected {expect_fingerprint}.")
        self._records: int = index["records"]
        self.shard_size: int = index["shard_size"]
        self._entries: list[dict[str, Any]] = index["shards"]
        self.fields = {
            name: Field(tuple(field["shape"]), dtype_named(field["dtype"])) for name, field in index["fields"].items()
        }
        self._shards = [self._open(number) for number in range(len(self._entries))]
        if verify:
            self.verify()

    def __len__(self) -> int:
        return self._records

    def __reduce__(self) -> tuple[Any, ...]:
        """Processes share the folder, not the bytes."""
        return partial(FeatureStore, self.folder, verify=False), ()

    def read(self, indices: ArrayLike, fields: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Records (n) int in any order, repeats allowed -> name -> (n ...), all fields where None.

        Raises:
            IndexError: an index outside 0..len - 1.
            TypeError: indices that are not a list of integers.
            ValueError: an unknown field.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise TypeError(f"indices must be a list of integers, got {wanted.dtype} {wanted.shape}.")
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"indices must be in 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}.")
        order = np.argsort(wanted, kind="stable")
        numbers, rows = np.divmod(wanted[order].astype(np.int64), self.shard_size)
        touched, starts = np.unique(numbers, return_index=True)
        edges = np.append(starts, wanted.size)
        names = self._names(fields)
        out = {name: np.empty((wanted.size, *self.fields[name].shape), self.fields[name].dtype) for name in names}
        for number, start, stop in zip(touched, edges[:-1], edges[1:], strict=True):
            arrays, places, here = self._shards[number].arrays, order[start:stop], rows[start:stop]
            for name in names:
                out[name][places] = arrays[name][here]
        return out

    def read_all(self, fields: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """Every record in order; for stores that fit in memory."""
        return {name: np.concatenate([shard.arrays[name] for shard in self._shards]) for name in self._names(fields)}

    def random_batches(
        self, batch_size: int, seed: int, *, epoch: int = 0, among: ArrayLike | None = None,
        fields: Sequence[str] | None = None,
    ) -> Iterator[dict[str, NDArray[Any]]]:  # fmt: skip
        """One pass over the records (`among`: only these) in an order that is a function of (seed, epoch); the last
        batch may be smaller."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        records = np.arange(len(self)) if among is None else np.asarray(among)
        order = np.random.default_rng([seed, epoch]).permutation(records)
        for start in range(0, len(order), batch_size):
            yield self.read(order[start : start + batch_size], fields)

    def verify(self) -> None:
        """Compare every byte with the index's checksums.

        Raises:
            ValueError: a shard was altered.
        """
        for number, entry in enumerate(self._entries):
            path = shard_path(self.folder, number)
            if sha256_of(path) != entry["sha256"]:
                raise ValueError(f"{path} was altered after extraction (its checksum differs); extract it again.")

    def _read_index(self) -> dict[str, Any]:
        path = self.folder / INDEX
        try:
            index = read_json(path)
            counts = [operator.index(index["records"]), operator.index(index["shard_size"])]
            sound = index["format"] == FORMAT and min(counts) > 0 and isinstance(index["provenance"], dict)
            sound = sound and len(index["shards"]) == -(-counts[0] // counts[1])
            sound = sound and all({"bytes", "header_sha256", "sha256"} <= set(entry) for entry in index["shards"])
            sound = sound and all(field["dtype"] in DTYPES.values() for field in index["fields"].values())
            sound = sound and all(type(size) is int for field in index["fields"].values() for size in field["shape"])
        except (KeyError, TypeError, AttributeError, RecursionError):
            sound = False
        if not sound:
            raise ValueError(f"{path} is not the index of a store of format {FORMAT}; restore it or extract again.")
        return dict(index)

    def _open(self, number: int) -> Shard:
        path = shard_path(self.folder, number)
        shard, entry = open_shard(path), self._entries[number]
        if path.stat().st_size != entry["bytes"] or shard.header_sha256 != entry["header_sha256"]:
            raise ValueError(f"{path} is not the file that {INDEX} lists (other size or header); extract it again.")
        count = min(self.shard_size, len(self) - number * self.shard_size)
        whole = all(array.ndim and len(array) == count for array in shard.arrays.values())
        if not whole or fields_of(shard.arrays) != self.fields or shard.metadata.get("provenance") != self.provenance:
            raise ValueError(f"{path} differs from {INDEX} in records, fields or provenance; extract it again.")
        return shard

    def _names(self, fields: Sequence[str] | None) -> list[str]:
        unknown = sorted(set(fields or ()) - set(self.fields))
        if unknown or isinstance(fields, str):
            raise ValueError(f"{self.folder} has no field {unknown or fields!r}; it has {sorted(self.fields)}.")
        return list(self.fields if fields is None else fields)


def _text(fields: Mapping[str, Field]) -> str:
    return ", ".join(f"{name} {name_of(field.dtype)}{list(field.shape)}" for name, field in fields.items())


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Names of the entries that differ, one level into the provenance."""
    flat = [{**one, **(one.get("provenance") or {})} for one in (found, expected)]
    names = sorted(set(flat[0]) | set(flat[1]))
    return ", ".join(n for n in names if n != "provenance" and flat[0].get(n) != flat[1].get(n)) or "provenance"

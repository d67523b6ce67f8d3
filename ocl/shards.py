"""One shard of a store: a safetensors file seen through a memory map.

A safetensors file is eight bytes (the header's length, little-endian), a JSON header that gives every array's dtype,
shape and byte range, and the arrays' bytes. Nothing in it is executable. Every number in the header is checked against
the file before it is used, so a damaged or hostile file ends in a ValueError and never in a read outside the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from safetensors.torch import save as save_tensors

from ocl.bfloat16 import BFLOAT16, dtype_named, tensor_of
from ocl.files import write_atomically

METADATA_KEY = "ocl.shard"  # the only key, since the order of several is not deterministic
LARGEST_HEADER = 16 * 2**20
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """arrays: name -> (n ...) read-only views of the file, of bfloat16 in `ocl.bfloat16.BFLOAT16`; metadata: what its
    writer said."""

    arrays: dict[str, NDArray[Any]]
    metadata: dict[str, Any]
    header_sha256: str


def write_shard(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any]) -> None:
    """Write named arrays and JSON metadata atomically; equal input gives equal bytes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(metadata, sort_keys=True, allow_nan=False)
    # save_file would leave temporary files of its own when killed
    if any(array.dtype == BFLOAT16 for array in contiguous.values()):  # which safetensors does not take from numpy
        content = save_tensors({name: tensor_of(array) for name, array in contiguous.items()}, {METADATA_KEY: text})
    else:
        content = save(contiguous, {METADATA_KEY: text})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def open_shard(path: Path) -> Shard:
    """Map the file and check its header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a complete, well-formed safetensors file written by `write_shard`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; extract this shard again.")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{path} is not a whole safetensors file (its header does not fit in it); delete it.")
        header_bytes = file.read(length)
    try:
        header = json.loads(header_bytes)
        metadata = json.loads(header.pop("__metadata__")[METADATA_KEY])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a safetensors shard of a store (unreadable header); delete it.") from error
    payload = np.memmap(path, dtype=np.uint8, mode="r", offset=0)[8 + length :]
    arrays, ranges = {}, []
    for name, entry in header.items():
        arrays[name], span = _view(payload, name, entry, path)
        ranges.append(span)
    ends = [0, *(end for _, end in sorted(ranges))]
    if [begin for begin, _ in sorted(ranges)] != ends[:-1] or ends[-1] != payload.size:
        raise ValueError(f"{path} holds {payload.size} bytes of arrays, its header describes others; delete it.")
    return Shard(arrays, metadata, hashlib.sha256(header_bytes).hexdigest())


def _view(payload: NDArray[np.uint8], name: str, entry: Any, path: Path) -> tuple[NDArray[Any], tuple[int, int]]:
    """The array that a header entry describes, and its byte range."""
    try:
        dtype = dtype_named(DTYPES[entry["dtype"]])
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
        sound = all(type(number) is int and number >= 0 for number in numbers)
        sound = sound and begin <= end <= payload.size and end - begin == math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"{path} describes the array {name[:80]!r} by an impossible dtype, shape or range; delete it.")
    return np.ndarray(shape, dtype, payload[begin:end]), (begin, end)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""TensorFlow's Example messages, read without TensorFlow and without copying what is not asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BYTES, FLOATS, INTEGERS = 1, 2, 3
KINDS = {BYTES: "bytes", FLOATS: "floats", INTEGERS: "integers"}
FIXED = {1: 8, 5: 4}
"""Wire types of a fixed length, in bytes."""
Feature: TypeAlias = tuple[int, memoryview]


class Example:
    """The named features of one record.

    A protocol buffer: Example {1: Features {1: map of name -> Feature}}, and a Feature is a list of byte strings {1},
    of float32 {2} or of int64 {3}. Only lengths are read here: values stay where they are until asked for, so that a
    mapped file is read where it is needed.

    Raises:
        ValueError: not an Example.
    """

    def __init__(self, record: bytes | memoryview) -> None:
        self._features: dict[str, Feature] = {}
        try:
            for _, features in _fields(memoryview(record)):
                for _, entry in _fields(features):
                    name, feature = (value for _, value in _fields(entry))
                    ((kind, values),) = _fields(feature)
                    self._features[str(name, "utf-8")] = (kind, values)
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise ValueError(f"a record is no tf.train.Example ({error}).") from error

    @property
    def names(self) -> list[str]:
        return sorted(self._features)

    def texts(self, name: str) -> list[memoryview]:
        """The byte strings of a feature, such as the encoded frames of a video."""
        return [value for _, value in _fields(self._values(name, BYTES))]

    def pixels(self, name: str, *shape: int) -> NDArray[np.uint8]:
        """Raw bytes in this shape, whether stored as one string or as one string per byte."""
        content = np.frombuffer(self._values(name, BYTES), np.uint8)
        single = content.reshape(-1, 3) if len(content) % 3 == 0 else content[:0].reshape(-1, 3)
        if len(single) and (single[:, :2] == (0x0A, 1)).all():  # tag, length 1, the byte
            return _shaped(name, single[:, 2], shape)
        return _shaped(name, np.frombuffer(b"".join(self.texts(name)), np.uint8), shape)

    def floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        content = b"".join(value for _, value in _fields(self._values(name, FLOATS)))
        return _shaped(name, np.frombuffer(content, "<f4"), shape)

    def integers(self, name: str, *shape: int) -> NDArray[np.int64]:
        packed = b"".join(value for _, value in _fields(self._values(name, INTEGERS)))
        return _shaped(name, _varints(np.frombuffer(packed, np.uint8)), shape)

    def _values(self, name: str, kind: int) -> memoryview:
        found, values = self._features.get(name, (0, memoryview(b"")))
        if found != kind:
            there = f"it holds {', '.join(self.names)}" if found not in KINDS else f"they are {KINDS[found]}"
            raise ValueError(f"a record has no {KINDS[kind]} {name!r}; {there}.")
        return values


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(field number, content) of a message; numbers keep their encoding, so that packed and single ones join alike."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        start = place
        if tag & 7 == 2:
            length, start = _varint(message, place)
        elif tag & 7 == 0:
            length = _varint(message, place)[1] - place
        elif tag & 7 in FIXED:
            length = FIXED[tag & 7]
        else:
            raise ValueError(f"wire type {tag & 7} at byte {place}")
        place = start + length
        if place > len(message):
            raise ValueError(f"a field of {length} bytes where {len(message) - start} are left")
        yield tag >> 3, message[start:place]


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number of seven bits per byte, lowest first, and where it ends."""
    value, shift = 0, 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError(f"a number without end at byte {place}")


def _varints(content: NDArray[np.uint8]) -> NDArray[np.int64]:
    ends = np.flatnonzero(content < 128)
    if len(content) and (not len(ends) or ends[-1] != len(content) - 1):
        raise ValueError("a record holds a list of integers that is cut off.")
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.append(0, ends[:-1] + 1)
    places = np.arange(len(content)) - np.repeat(starts, ends - starts + 1)
    parts = (content & 127).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.add.reduceat(parts, starts).view(np.int64)


def _shaped(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """In this shape, of which one entry may be -1; the values as they are where none is given."""
    if not shape:
        return values
    try:
        return values.reshape(shape)
    except ValueError:
        raise ValueError(f"a record has {len(values)} values of {name!r}, which do not fill {shape}.") from None

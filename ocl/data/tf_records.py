"""TFRecord files: records in a row, each with its length and two checksums; plain ones mapped, GZIP ones streamed."""

from __future__ import annotations

import gzip
import mmap
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ocl.data.crc32c import crc32c, masked

HEADER, FOOTER = 12, 4
LARGEST = 2**31
"""Bytes of a record: what a protocol buffer may have. A longer one is a damaged length."""


class TFRecordFile:
    """The records of a plain file in any order, as views of a memory map: what is not looked at is not read.

    A view holds the file open and nothing else does: sets have more shards than a process may have open files. Lengths
    and their checksums are read on opening, the checksums of the records only by `verify`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged length, a file that is cut off, or a compressed one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        size = _size(self.path)
        self._spans: list[tuple[int, int]] = []
        with open(self.path, "rb") as file:
            while header := file.read(HEADER):
                start = file.tell()
                stop = start + _length(header, self.path)
                if stop + FOOTER > size:
                    raise _cut_off(self.path, len(self._spans))
                self._spans.append((start, stop))
                file.seek(stop + FOOTER)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> memoryview:
        start, stop = self._spans[index]
        return self._mapped()[start:stop]

    def verify(self) -> None:
        """Compare every record with its checksum; ValueError at the first that differs."""
        content = self._mapped()
        for index, (start, stop) in enumerate(self._spans):
            _check(content[start:stop], bytes(content[stop : stop + FOOTER]), self.path, index)

    def _mapped(self) -> memoryview:
        if not self._spans:
            return memoryview(b"")
        with open(self.path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class GzipRecords:
    """The records of a GZIP file. Only rising numbers are read fast: a lower one starts again at the front.

    Every record that is given was compared with its checksum.

    Raises:
        FileNotFoundError: no such file.
        ValueError: on reading, a damaged or cut file.
        IndexError: on reading, a record after the last.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _size(self.path)
        self._file: gzip.GzipFile | None = None
        self._next = 0

    def __getitem__(self, index: int) -> bytes:
        if self._file is None or index < self._next:
            self._file, self._next = gzip.GzipFile(self.path), 0
        while self._next < index:
            self._read(checked=False)
        return self._read(checked=True)

    def __iter__(self) -> Iterator[bytes]:
        index = 0
        while True:
            try:
                record = self[index]
            except IndexError:
                return
            yield record
            index += 1

    def _read(self, checked: bool) -> bytes:
        assert self._file is not None
        try:
            header = self._file.read(HEADER)
            if not header:
                count, self._file = self._next, None
                raise IndexError(f"{self.path} ends after {count} records.")
            length = _length(header, self.path)
            record, footer = self._file.read(length), self._file.read(FOOTER)
        except (EOFError, OSError, zlib.error) as error:
            self._file = None
            raise ValueError(f"{self.path} is no whole GZIP file ({error}); fetch it again.") from error
        if len(record) < length or len(footer) < FOOTER:
            self._file = None
            raise _cut_off(self.path, self._next)
        if checked:
            _check(record, footer, self.path, self._next)
        self._next += 1
        return record

    def __getstate__(self) -> dict[str, Any]:
        """Workers open the file for themselves."""
        return {**self.__dict__, "_file": None, "_next": 0}


def _size(path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; see the card of the data set for where to get it.")
    return path.stat().st_size


def _length(header: bytes, path: Path) -> int:
    if len(header) == HEADER:
        length, checksum = struct.unpack("<QI", header)
        if length < LARGEST and masked(crc32c(header[:8])) == checksum:
            return int(length)
    hint = "it is compressed, so read it with GzipRecords" if header[:2] == b"\x1f\x8b" else "fetch it again"
    raise ValueError(f"{path} is no whole file of TFRecords (the length of a record is damaged); {hint}.")


def _check(record: bytes | memoryview, footer: bytes, path: Path, index: int) -> None:
    if masked(crc32c(record)) != struct.unpack("<I", footer)[0]:
        raise ValueError(f"Record {index} of {path} is not what its checksum says; fetch the file again.")


def _cut_off(path: Path, index: int) -> ValueError:
    return ValueError(f"{path} is cut off in record {index}; fetch it again.")

"""Archives of others: checksums in one reading, and unpacking that goes on where it stopped and stays in its folder."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeAlias

from ocl.files import remove_leftovers, write_atomically

DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)
"""What the standard library raises on archives that are cut off, altered or encrypted."""


@dataclass(frozen=True)
class Digests:
    """Of a whole file, in hexadecimal."""

    md5: str
    sha256: str


def digests_of(path: Path) -> Digests:
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(2**20):
            md5.update(part)
            sha256.update(part)
    return Digests(md5.hexdigest(), sha256.hexdigest())


@dataclass(frozen=True)
class Member:
    """A regular file in an archive."""

    name: str
    size: int


def unpack(archive: Path, folder: Path, below: str = "") -> int:
    """Write the files of a .zip, .tar, .tar.gz or .tgz below `folder`; returns how many the archive holds.

    Every file appears whole or not at all, and one that is there in its size is left alone, so a killed unpacking is
    taken up by the next. Times, owners and modes are not kept.

    Args:
        below: only the files below this path in the archive, and without it.

    Raises:
        ValueError: not an archive, a damaged one, one that holds links, or one that reaches outside `folder`; files
            before the bad one may be written then.
    """
    count, written = 0, set()
    try:
        with _members(archive) as members:
            for member, content in members:
                if (name := _inside(member.name, below, archive)) is None:
                    continue
                count += 1
                target = folder / name
                if target.parent not in written:
                    written.add(target.parent)
                    remove_leftovers(target.parent)  # half images of a killed run would be read as images
                if target.is_file() and target.stat().st_size == member.size:
                    continue
                if target.is_dir():
                    raise ValueError(
                        f"{archive} holds the file {member.name} where {target} is a folder; move that away."
                    )
                write_atomically(target, lambda temporary, content=content: _copy(content, temporary))  # type: ignore[misc]
    except DAMAGE as error:
        raise ValueError(f"{archive} is no whole archive ({error}); fetch it again.") from error
    if not count:
        raise ValueError(f"{archive} holds no file{f' below {below}' if below else ''}; fetch another copy.")
    return count


Opened: TypeAlias = Iterator[tuple[Member, IO[bytes]]]


@contextmanager
def _members(archive: Path) -> Iterator[Opened]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _of_zip(file)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            yield _of_tar(tar, archive)
    else:
        raise ValueError(f"{archive} is neither a zip nor a tar archive; fetch it again.")


def _of_zip(file: zipfile.ZipFile) -> Opened:
    for info in file.infolist():
        if not info.is_dir():
            with file.open(info) as content:
                yield Member(info.filename, info.file_size), content


def _of_tar(file: tarfile.TarFile, archive: Path) -> Opened:
    for info in file:
        if info.isdir():
            continue
        content = file.extractfile(info) if info.isfile() else None
        if content is None:
            raise ValueError(f"{archive} holds {info.name}, which is no regular file; do not trust it.")
        yield Member(info.name, info.size), content


def _inside(name: str, below: str, archive: Path) -> Path | None:
    """Where a member goes, relative to the folder; None where it is not below the asked path."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ValueError(f"{archive} holds {name!r}, which leads out of its folder; do not trust it.")
    if not path.is_relative_to(below):
        return None
    return Path(*path.relative_to(below).parts)


def _copy(content: IO[bytes], path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(content, file, 2**20)

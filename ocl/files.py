"""Files that are either whole or absent: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Call `write(temporary_path)`, flush it to disk, then rename it to `path`.

    A reader sees the old file or the new one, never a part; an interrupted write leaves only a `.tmp-*` file,
    which `remove_leftovers` deletes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path: str | Path, text: str) -> Path:
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises FileNotFoundError, or ValueError in one sentence where the file is not JSON."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); delete it or restore it from a copy.") from error


def remove_leftovers(folder: str | Path) -> int:
    """Delete temporary files that interrupted writes left in `folder` (not below it); returns how many."""
    leftovers = list(Path(folder).glob(".tmp-*"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    return len(leftovers)

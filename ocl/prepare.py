"""`ocl prepare`: what was fetched by hand, verified, unpacked and read once, before a training run needs it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ocl.archives import digests_of, unpack
from ocl.data.tf_records import GzipRecords, TFRecordFile
from ocl.files import read_json, write_json

STATE = "prepared.json"
LARGE = 2**28
"""Bytes of a file whose verification is announced."""


@dataclass(frozen=True)
class Fetched:
    """A file, or a folder of files, that somebody has to fetch.

    to:      where it goes, relative to the data; a folder where it ends with a slash.
    url:     where it is; "" for what another archive holds.
    bytes:   its published size.
    md5:     published.
    sha256:  published.
    unpack:  the folder that an archive is unpacked into, relative to the data; None: it is no archive.
    below:   only what is below this path of the archive, and without it.
    records: "plain" or "gzip": TFRecords, whose own checksums are compared too.
    """

    to: str
    url: str = ""
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None
    unpack: str | None = None
    below: str = ""
    records: str | None = None


class Preparation:
    """A data set's files, and what is known of them from earlier runs (prepared.json beside them).

    Where no checksum is published, the first run records one, and later ones compare.
    """

    def __init__(self, data: Path) -> None:
        self.data = data
        state: dict[str, Any] = read_json(data / STATE) if (data / STATE).is_file() else {}
        self.files: dict[str, dict[str, Any]] = state.get("files", {})
        self.unpacked: dict[str, str] = state.get("unpacked", {})

    def __call__(self, one: Fetched) -> str:
        """Verify and unpack what is there; says what was found: "missing", "verified" or "unpacked".

        Raises:
            ValueError: a file that is not the published one, or not the one of an earlier run; a damaged archive.
        """
        paths = self._paths(one)
        if not paths:
            return "unpacked" if one.to in self.unpacked else "missing"
        for path in track(paths, "verifying", disable=len(paths) == 1):
            self._verify(path, one)
        if one.unpack is None:
            return "verified"
        (path,) = paths
        sha256 = self.files[one.to]["sha256"]
        if self.unpacked.get(one.to) != sha256:
            Console().print(f"unpacking {path}", soft_wrap=True)
            unpack(path, self.data / one.unpack, one.below)
            self.unpacked[one.to] = sha256
            self._save()
        return "unpacked"

    def _paths(self, one: Fetched) -> list[Path]:
        path = self.data / one.to
        if one.to.endswith("/"):
            return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
        return [path] if path.is_file() else []

    def _verify(self, path: Path, one: Fetched) -> None:
        """Nothing is read again of a file whose size and time are those of the last verification."""
        name, status = path.relative_to(self.data).as_posix(), path.stat()
        seen = {"bytes": status.st_size, "modified": status.st_mtime_ns}
        known = self.files.get(name, {})
        if {key: known.get(key) for key in seen} == seen:
            return
        if one.bytes not in (None, status.st_size):
            raise ValueError(f"{path} has {status.st_size} bytes, published are {one.bytes}; fetch it again.")
        if status.st_size > LARGE:
            Console().print(f"verifying {path} ({status.st_size / 1e9:.1f} GB)", soft_wrap=True)
        found = digests_of(path)
        for kind, published in (("md5", one.md5), ("sha256", one.sha256)):
            if published not in (None, getattr(found, kind)):
                raise ValueError(
                    f"{path} has the {kind} {getattr(found, kind)}, published is {published}; fetch it again."
                )
        if known.get("sha256", found.sha256) != found.sha256:
            raise ValueError(
                f"{path} is not the file that was verified before (sha256 {known['sha256']}); restore it, or delete "
                f"{self.data / STATE} to accept it."
            )
        if one.records is not None and ".tfrecord" in path.name:
            _verify_records(path, one.records)
        self.files[name] = {**seen, "sha256": found.sha256}
        self._save()

    def _save(self) -> None:
        write_json(self.data / STATE, {"files": self.files, "unpacked": self.unpacked})


def prepare(name: str, data: Path | None = None, recipes: Path = Path("datasets")) -> list[dict[str, Any]]:
    """Verify and unpack a data set that was fetched by hand, and read one item of every split; run again to continue.

    Args:
        name: A folder of `recipes`, such as coco or pascal_voc.
        data: Where the fetched files lie and are unpacked; datasets/NAME/data where nothing is given.
        recipes: The folder with the recipes.
    """
    recipe = read_recipe(recipes, name)
    data = recipes / name / "data" if data is None else data
    preparation = Preparation(data)
    fetched = [Fetched(**entry) for entry in recipe["fetch"]]
    found = [(one, preparation(one)) for one in fetched]
    splits = list(_splits(recipe, data))
    wanting = [row["what"] for row in splits if row["state"] == "unreadable"]
    rows = [{"what": one.to, "state": state, "note": _note(one, state, wanting)} for one, state in found] + splits
    console = Console()
    console.print(_table(name, rows))
    if not wanting:
        return rows
    for one, state in found:
        if state == "missing" and one.url:  # in one line each, to be copied
            console.print(f"fetch {one.url} to {data / one.to}", soft_wrap=True, highlight=False)
    raise FileNotFoundError(
        f"{name} is not whole: {', '.join(wanting)} cannot be read; fetch what is named above, then run this again."
    )


def read_recipe(recipes: Path, name: str) -> dict[str, Any]:
    """The content of recipes/NAME/recipe.yaml.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: one without files to fetch, of a set that is drawn for example.
    """
    path = recipes / name / "recipe.yaml"
    if not path.is_file():
        known = ", ".join(sorted(one.parent.name for one in recipes.glob("*/recipe.yaml")))
        where = (
            f"{recipes} has {known}" if known else f"{recipes} has none; run this where the repository is, or name it"
        )
        raise FileNotFoundError(f"there is no recipe {path}; {where}.")
    recipe: dict[str, Any] = yaml.safe_load(path.read_text())
    if not recipe.get("fetch"):
        raise ValueError(f"the recipe of {name} names no files: see {path.with_name('README.md')}.")
    return recipe


def _splits(recipe: Mapping[str, Any], data: Path) -> Iterator[dict[str, Any]]:
    """One row per split, or per split of the recipe's "check": how many items it has, or why it cannot be read."""
    module, name = recipe["class_path"].rsplit(".", 1)
    for split in recipe.get("check", recipe["splits"]):
        own = recipe["splits"][split]
        arguments = {
            key: value.replace("{data}", str(data)) if isinstance(value, str) else value
            for key, value in {**recipe.get("arguments", {}), **own}.items()
        }
        try:
            dataset = getattr(importlib.import_module(module), name)(**arguments)
            dataset[0]
            yield {"what": f"split {split}", "state": "readable", "note": f"{len(dataset)} items"}
        except (FileNotFoundError, ImportError, ValueError, IndexError) as error:
            yield {"what": f"split {split}", "state": "unreadable", "note": str(error)}


def _verify_records(path: Path, kind: str) -> None:
    if kind == "plain":
        TFRecordFile(path).verify()
    else:
        for _ in GzipRecords(path):
            pass


def _note(one: Fetched, state: str, wanting: list[str]) -> str:
    if state != "missing":
        return ""
    if not wanting:
        return "not needed: all splits can be read"
    return "to be fetched, see below" if one.url else "comes out of an archive above"


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=name)
    for column in ("what", "state", "note"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in ("what", "state", "note")))
    return table

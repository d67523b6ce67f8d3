"""Steps of a pipeline that are done once: a folder with rows.json and, written last, manifest.json."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocl.files import read_json, write_json
from ocl.manifest import write_manifest

Row = dict[str, Any]
"""{"name", "value", "unit", "seed", "split"}, with "low" and "high" where there is a 95 % interval."""


def row(name: str, value: float, unit: str, seed: int, split: str, **extra: float) -> Row:
    """Raises ValueError where a figure is not finite: a result that does not exist gets no row."""
    if not all(math.isfinite(number) for number in (value, *extra.values())):
        raise ValueError(f"{name} is not finite: {value}, {extra}.")
    return {"name": name, "value": value, "unit": unit, "seed": seed, "split": split, **extra}


@dataclass(frozen=True)
class Stage:
    """settings: JSON values that decide the result; a folder that holds the result of others is refused."""

    folder: Path
    settings: dict[str, Any]
    seed: int

    def is_done(self) -> bool:
        """Raises ValueError where the folder is done with other settings."""
        if not (self.folder / "manifest.json").is_file():
            return False
        found = read_json(self.folder / "manifest.json")
        wanted = json.loads(json.dumps(self.settings | {"seed": self.seed}))
        if found["config"] != wanted:
            different = [
                name for name in {**wanted, **found["config"]} if found["config"].get(name) != wanted.get(name)
            ]
            raise ValueError(
                f"{self.folder} holds a result of another {', '.join(different)}; delete it, or choose another folder."
            )
        return True

    def finish(self, rows: list[Row], seconds: float) -> None:
        write_json(self.folder / "rows.json", rows)
        write_manifest(
            self.folder, config=self.settings | {"seed": self.seed}, seed=self.seed, seconds=round(seconds, 1)
        )

    @property
    def rows(self) -> list[Row]:
        return list(read_json(self.folder / "rows.json"))

    @property
    def seconds(self) -> float:
        return float(read_json(self.folder / "manifest.json")["seconds"])

"""States of trainings come back as they were saved; everything else is refused, and nothing in it is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ocl.states import read_state

NEEDS = frozenset({"weights", "step"})


class MakeFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def harmful(path: Path) -> MakeFolder:
    return MakeFolder(str(path.parent / "executed"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut in the middle": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut at the end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "cut at the start": lambda path: os.truncate(path, 100),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(harmful(path))),
    "a pickle in a zip": lambda path: torch.save({"weights": harmful(path), "step": 2}, path),
    "an old pickle": lambda path: torch.save(
        {"weights": harmful(path), "step": 2}, path, _use_new_zipfile_serialization=False
    ),
    "other entries": lambda path: torch.save({"weights": torch.zeros(1)}, path),
    "no dictionary": lambda path: torch.save(torch.zeros(1), path),
}


def test_a_state_comes_back(tmp_path: Path) -> None:
    torch.save({"weights": torch.arange(3), "step": 2, "more": [1.5]}, tmp_path / "state.pt")
    state = read_state(tmp_path / "state.pt", NEEDS)
    assert state["weights"].tolist() == [0, 1, 2]
    assert (state["step"], state["more"]) == (2, [1.5])
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "other.pt", NEEDS)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_damaged_or_harmful_is_refused_unexecuted(damage: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"weights": torch.arange(300), "step": 2}, path)
    damage(path)
    with pytest.raises(ValueError, match=r"state\.pt is no whole training checkpoint .* delete it to start anew"):
        read_state(path, NEEDS)
    assert not (tmp_path / "executed").exists()

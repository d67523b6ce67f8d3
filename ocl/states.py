"""What `torch.save` wrote, read back without running pickled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_state(path: str | Path, needs: frozenset[str], map_location: Any = "cpu") -> dict[str, Any]:
    """The dictionary of tensors and plain values in a file of a training that was stopped.

    Args:
        needs: entries that it must have.
        map_location: where the tensors are put.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, altered, with pickled code (which is not run), or without one of the entries.
    """
    with open(path, "rb") as file:  # apart, since readers of cut files raise errors of the system too
        try:
            state = torch.load(file, map_location=map_location, weights_only=True)
            whole = isinstance(state, dict) and needs <= set(state)
        except Exception:  # readers of damaged zip files and pickles raise what they like
            whole = False
    if not whole:
        raise ValueError(
            f"{path} is no whole training checkpoint (truncated, altered, or with pickled code, which is not run); "
            "restore it from a copy, or delete it to start anew."
        )
    return dict(state)

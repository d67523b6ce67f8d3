"""A trained head on disk: `head.safetensors` with the tensors and `head.json` with everything else. No pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load, save

from ocl.files import read_json, write_atomically, write_json
from rl_probes.rewards.slot_head import SlotHead

Head = TypeVar("Head", bound=SlotHead)


def save_head(head: SlotHead, folder: str | Path, **notes: Any) -> Path:
    """Write the head; `notes` (JSON values) go beside it. The JSON is written last and carries the tensors' SHA-256,
    so a head that an interruption left half new is refused."""
    folder = Path(folder)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()})
    write_atomically(folder / "head.safetensors", lambda temporary: temporary.write_bytes(content))
    description = {
        "class": type(head).__name__,
        "hyperparameters": head.hyperparameters,
        "encoder_fingerprint": head.encoder_fingerprint,
        "sha256": hashlib.sha256(content).hexdigest(),
        "notes": notes,
    }
    return write_json(folder / "head.json", description)


def load_head(kind: type[Head], folder: str | Path) -> Head:
    """A head of the class `kind`, in eval mode.

    Raises:
        FileNotFoundError: no head there.
        ValueError: a head of another class, or files that were altered or do not belong together.
    """
    folder = Path(folder)
    description = read_json(folder / "head.json")
    tensors = folder / "head.safetensors"
    try:
        name, fingerprint = description["class"], description["encoder_fingerprint"]
        sizes = {key: int(value) for key, value in description["hyperparameters"].items()}
        digest = description["sha256"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{folder / 'head.json'} does not describe a progress head ({error!r}).") from error
    if name != kind.__name__:
        raise ValueError(f"{folder} holds a {name}, expected a {kind.__name__}.")
    if not tensors.is_file():
        raise FileNotFoundError(f"{tensors} does not exist.")
    content = tensors.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{tensors} is not the file that head.json describes (its checksum differs); fit it again.")
    try:
        head = kind(**sizes)
        head.load_state_dict(load(content))
    except (TypeError, RuntimeError, KeyError) as error:
        raise ValueError(f"{folder / 'head.json'} and its tensors do not fit together; fit the head again.") from error
    head.encoder_fingerprint = fingerprint
    return head.eval()

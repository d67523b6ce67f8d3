"""Nested dictionaries of arrays and plain values in one safetensors file: whole or absent, checked, never pickled."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from ocl.files import write_atomically

_ARRAY = "$array"


def save(path: str | Path, tree: dict[str, Any]) -> Path:
    """`tree`: dictionaries with string keys and lists, of arrays, tensors and what JSON can hold.

    Raises:
        TypeError: anything else in the tree.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    text = json.dumps(_take_arrays(tree, arrays))
    # One entry, since safetensors writes several in no fixed order: equal content, equal bytes.
    metadata = {"snapshot": json.dumps({"tree": text, "sha256": _digest(text, arrays)})}
    # As bytes, since save_file has a temporary name of its own, which a kill would leave behind.
    return write_atomically(path, lambda temporary: temporary.write_bytes(serialise(arrays, metadata=metadata)))


def load(path: str | Path) -> dict[str, Any]:
    """What `save` wrote, tensors as arrays and tuples as lists.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is cut off, altered, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get("snapshot", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a readable snapshot ({error}); delete it or restore it from a copy."
        ) from error
    if not isinstance(metadata, dict) or metadata.get("sha256") != _digest(metadata.get("tree", ""), arrays):
        raise ValueError(f"{path} does not match its own checksum; delete it or restore it from a copy.")
    tree: dict[str, Any] = _put_arrays(json.loads(metadata["tree"]), arrays)
    return tree


def random_state() -> dict[str, Any]:
    """The global generators that Stable-Baselines3 draws from: Python's, numpy's and torch's."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (what the library uses)
    return {
        "python": random.getstate(),
        "numpy": {"name": name, "keys": keys, "rest": [int(position), int(has_gauss), float(cached)]},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    numpy_state = state["numpy"]
    np.random.set_state((numpy_state["name"], numpy_state["keys"], *numpy_state["rest"]))  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(state["torch"]))
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all([torch.from_numpy(words) for words in state["cuda"]])


def tensors(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    """A loaded dictionary of arrays as a state dict."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _take_arrays(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        name = f"{len(arrays):05d}"
        arrays[name] = np.ascontiguousarray(value).reshape(value.shape)  # the former makes (1,) of ()
        return {_ARRAY: name}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"snapshot dictionaries need string keys, got {list(value)[:3]}.")
        return {key: _take_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_take_arrays(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a snapshot holds arrays, tensors and JSON values, not {type(value).__name__}.")


def _put_arrays(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_ARRAY}:
            return arrays[value[_ARRAY]]
        return {key: _put_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_arrays(item, arrays) for item in value]
    return value


def _digest(text: str, arrays: dict[str, np.ndarray[Any, Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

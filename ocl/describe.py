"""What an object is, as text: class paths, plain attributes and fingerprints, for provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

PLAIN = (bool, int, float, str, type(None))
LARGEST_ARRAY = 1000  # entries; larger ones are data, not settings
LONGEST_TEXT = 1000  # characters


def class_path(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def plain_attributes(value: object) -> dict[str, Any]:
    """Public attributes that are numbers, text, paths, small arrays, or lists and dictionaries of these; by name."""
    found = {name: _plain(item) for name, item in sorted(vars(value).items()) if not name.startswith("_")}
    return {name: item for name, item in found.items() if item is not None}


def describe_dataset(dataset: Dataset[Any]) -> dict[str, Any]:
    """Class and plain attributes, those of the data sets inside it too; long lists (of indices, say) by their digest.

    Two data sets with the same description must hold the same items, or one could be taken for the other on disk.
    """
    found = {"class": class_path(dataset), **plain_attributes(dataset)}
    for name, value in vars(dataset).items():
        if isinstance(value, Dataset):
            found[name] = describe_dataset(value)
        elif len(text := json.dumps(found.get(name))) > LONGEST_TEXT:
            found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def describe_module(module: nn.Module) -> str:
    """One line per submodule: its name, class, plain attributes and the digest of buffers that are not saved.

    With the weights this determines the output, up to attributes that are not plain (a bare function, say). Modules of
    timm are described by their printed form, since their attributes also hold switches of the machine; the module that
    holds them must name the architecture.
    """
    lines = []
    for name, part in module.named_modules():
        if type(part).__module__.startswith("timm."):
            text = part.extra_repr()
        else:
            attributes = {key: item for key, item in plain_attributes(part).items() if key != "training"}
            unsaved = sorted(part._non_persistent_buffers_set)
            buffers = {key: digest(buffer) for key in unsaved if (buffer := part._buffers[key]) is not None}
            text = json.dumps({**attributes, **buffers})  # dictionaries keep their order: it can matter
        lines.append(f"{name}: {class_path(part)} {text}")
    return "\n".join(lines)


def describe_part(value: object) -> Any:
    """Anything that computes, modules or not, in JSON's types: class, public attributes and the parts it is made of.

    A module is described by its fingerprint (its own where it has one) and by what that leaves out: public attributes
    that are neither plain nor modules, filters for instance. A tensor is described by its digest, a function or class
    by its path. Private attributes are taken for caches and left out.

    Raises:
        TypeError: something that holds no attributes and so cannot be told from another of its kind.
    """
    if isinstance(value, nn.Module):
        own = getattr(value, "fingerprint", None)
        found = {"class": class_path(value), "fingerprint": own if isinstance(own, str) else fingerprint(value)}
        return {**found, "parts": parts} if (parts := _parts(value)) else found
    if isinstance(value, Tensor):
        return digest(value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, MethodType):
        return {"method": value.__func__.__qualname__, "of": describe_part(value.__self__)}
    if isinstance(value, partial):
        return {"function": describe_part(value.func), "arguments": describe_part([value.args, value.keywords])}
    if isinstance(value, list | tuple):
        return [describe_part(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe_part(item) for item in value), key=json.dumps)
    if isinstance(value, Mapping):
        return {str(name): describe_part(item) for name, item in value.items()}
    if value is None or (plain := _plain(value)) is not None:
        return value if value is None else plain
    if not hasattr(value, "__dict__"):
        raise TypeError(f"{class_path(value)} cannot be described; give it public attributes that say what it does.")
    public = {name: item for name, item in sorted(vars(value).items()) if not name.startswith("_")}
    return {"class": class_path(value), **describe_part(public)}


def fingerprint(module: nn.Module, description: str | None = None) -> str:
    """64 hex digits: SHA-256 of a description (None: `describe_module`) and every parameter and buffer."""
    total = hashlib.sha256((describe_module(module) if description is None else description).encode())
    for name, tensor in sorted(module.state_dict().items()):
        total.update(f"{name} {digest(tensor)}".encode())
    return total.hexdigest()


def digest(tensor: Tensor) -> str:
    """SHA-256 of type, shape and values."""
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + values.tobytes()).hexdigest()


def _parts(module: nn.Module) -> dict[str, Any]:
    """What `describe_module` leaves out, by the names of submodule and attribute; of our modules and users', since
    those of libraries hold switches of the machine."""
    found = {}
    for name, part in module.named_modules():
        if not type(part).__module__.startswith(("timm.", "torch.")):
            for key, item in vars(part).items():
                if not key.startswith("_") and item is not None and _plain(item) is None:
                    found[f"{name}.{key}"] = describe_part(item)
    return found


def _plain(value: Any) -> Any:
    """The value in JSON's types; None where it is not plain."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path | torch.dtype):
        return str(value)
    if isinstance(value, np.ndarray | np.generic) and value.size <= LARGEST_ARRAY:
        return value.tolist()
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return None if None in items else items
    if isinstance(value, Mapping):
        items = [_plain(item) for item in value.values()]
        return None if None in items else dict(zip(map(str, value), items, strict=True))
    return None

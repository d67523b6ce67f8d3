"""Build modules from a tree of class paths: the one place where a name in a file becomes a class.

A node is `{"class_path": "ocl.slots.attention.SlotAttention", "init_args": {"dim": 64}}`; arguments may be nodes, lists
and dictionaries of nodes, or plain values. Every class path is checked before the first import, so a tree that names
anything outside the allowed packages runs no code at all. Arguments named `pretrained` and `weights` are switched off:
a stored model brings its weights along.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

ALLOWED = ("ocl", "rl_probes", "torch.nn")
"""Packages whose classes a file may name without the caller's trust."""


def instantiate(node: Mapping[str, Any], *, trust: bool = False) -> nn.Module:
    """Build the module that `node` describes.

    trust: also accept classes of any other importable package. Importing runs that package's code.

    Raises:
        ValueError: a node is malformed, names a class outside `ALLOWED` (without trust) or no nn.Module, or gives
            arguments that the class does not take.
    """
    if not isinstance(node, Mapping) or "class_path" not in node:
        raise ValueError(f"A module is described by class_path and init_args, got {_short(node)}.")
    for path in class_paths(node):
        parts = path.split(".")
        if len(parts) < 2 or not all(part.isidentifier() and not part.startswith("_") for part in parts):
            raise ValueError(
                f"{_short(path)} is not the path of a public class, such as ocl.slots.initial.RandomSlots."
            )
        if not trust and not _inside(path):
            raise ValueError(
                f"{_short(path)} is outside the allowed packages ({', '.join(ALLOWED)}); pass trust=True only for a "
                "file whose author you trust to run code on this machine."
            )
    built = _build(node, trust)
    assert isinstance(built, nn.Module)
    return built


def class_paths(tree: Any) -> Iterator[str]:
    """Every class path of a tree, outermost first.

    Raises:
        ValueError: a node holds something else than a class path and its arguments.
    """
    if isinstance(tree, Mapping):
        if "class_path" in tree:
            if not isinstance(tree["class_path"], str) or not set(tree) <= {"class_path", "init_args"}:
                raise ValueError(
                    f"A node holds a class_path (text) and init_args and nothing else, got {_short(tree)}."
                )
            if not isinstance(tree.get("init_args") or {}, Mapping):
                raise ValueError(
                    f"init_args of {tree['class_path']} must name arguments, got {_short(tree['init_args'])}."
                )
            yield tree["class_path"]
        for value in tree.values():
            yield from class_paths(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from class_paths(value)


def _build(tree: Any, trust: bool) -> Any:
    if isinstance(tree, list | tuple):
        return [_build(value, trust) for value in tree]
    if not isinstance(tree, Mapping):
        return tree
    if "class_path" not in tree:
        return {name: _build(value, trust) for name, value in tree.items()}
    path, arguments = tree["class_path"], tree.get("init_args") or {}
    cls = _resolve(path, trust)
    _check_arguments(path, cls, arguments)
    parts = {name: _build(value, trust) for name, value in arguments.items()}
    for name, off in (("pretrained", False), ("weights", None)):
        if name in inspect.signature(cls.__init__).parameters:
            parts[name] = off
    try:
        return cls(**parts)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise ValueError(f"{path} cannot be built from these arguments ({reason[:200]}).") from error


def _resolve(path: str, trust: bool) -> type[nn.Module]:
    module, name = path.rsplit(".", 1)
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path} does not exist here ({error}); check its spelling and the installed version."
        ) from error
    # A module may have imported a foreign class; the class itself must be at home in an allowed package.
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module) and (trust or _inside(cls.__module__))):
        raise ValueError(f"{path} is not a torch.nn.Module of an allowed package, so no model can contain it.")
    return cls


def _check_arguments(path: str, cls: type[nn.Module], arguments: Mapping[str, Any]) -> None:
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    kinds = {parameter.kind for parameter in parameters.values()}
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    unknown = [name for name in arguments if name not in named]
    if unknown and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"{path} takes no {', '.join(map(_short, unknown))}; it takes {', '.join(named) or 'nothing'}."
        )
    absent = [
        name for name, parameter in named.items() if parameter.default is parameter.empty and name not in arguments
    ]
    if absent:
        raise ValueError(f"{path} needs {', '.join(absent)}; it takes {', '.join(named)}.")


def _inside(path: str) -> bool:
    return any(path == package or path.startswith(package + ".") for package in ALLOWED)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

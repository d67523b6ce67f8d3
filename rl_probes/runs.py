"""Runs on disk, built again from the config that `rl-probes ppo` left beside their results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from ocl.instantiate import ALLOWED
from ocl.representations import ObjectEncoder
from rl_probes.agent import PoolingFactory
from rl_probes.envs.world import World


class Run:
    """The parts of a finished run, built again from its config.yaml."""

    def __init__(self, described: dict[str, Any], built: Namespace) -> None:
        self.described = described
        self.world: World = built.world
        self.encoder: ObjectEncoder = built.encoder
        self.pooling: PoolingFactory = built.pooling
        self.seed: int = built.seed


def read_run(folder: str | Path, *, trust: bool = False) -> Run:
    """Build world, encoder and pooling of the run in `folder`.

    trust: accept classes outside `ocl.instantiate.ALLOWED`; importing them runs their code.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a config that is damaged or names a class outside the allowed packages.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run's folder is what `rl-probes ppo` wrote.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        described = {key: content[key] for key in ("world", "encoder", "pooling")}
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not the config of a run; restore it from a copy.") from error
    foreign = [] if trust else [text for text in _texts(described) if _is_foreign(text)]
    if foreign:
        raise ValueError(
            f"{path} names {foreign[0]!r}, outside {', '.join(ALLOWED)}; pass trust only for a file whose author you "
            "trust to run code on this machine."
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--world", type=World)
    parser.add_argument("--encoder", type=ObjectEncoder)
    parser.add_argument("--pooling", type=PoolingFactory)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_object(described | {"seed": int(content.get("seed", 0))})
    return Run(described, parser.instantiate_classes(parsed))


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value)
    elif isinstance(tree, str):
        yield tree


def _is_foreign(text: str) -> bool:
    """Whether the parser could import it from outside the allowed packages: a class may be named by a bare dotted
    text, or by a text that is YAML itself. Nothing is imported to find out."""
    if text.startswith(tuple(f"{package}." for package in ALLOWED)):
        return False
    parts = text.split(".")
    importable = len(parts) > 1 and all(part.isidentifier() for part in parts) and find_spec(parts[0]) is not None
    return importable or (text != "class_path" and "class_path" in text)

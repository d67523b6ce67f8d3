"""Runs on disk, built again from the config that `rl-probes ppo` left beside their results."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from ocl.files import read_json
from ocl.instantiate import ALLOWED
from ocl.representations import ObjectEncoder
from rl_probes.agent import PoolingFactory
from rl_probes.envs.world import World

PARTS = {"world": World, "encoder": ObjectEncoder, "pooling": PoolingFactory}


@dataclass(frozen=True)
class Arguments:
    """Arguments of a constructor as a file or a command line writes them: class paths in them are not built yet."""

    content: dict[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise ValueError(f"arguments are written {{name: value}}, got {self.content!r}.")

    @classmethod
    def read(cls, text: str | dict[str, Any]) -> Self:
        """From YAML, or from what was read already."""
        return cls(yaml.safe_load(text) if isinstance(text, str) else text)


register_type(
    Arguments, lambda arguments: arguments.content, Arguments.read, deserializer_exceptions=(ValueError, yaml.YAMLError)
)


class Run:
    """The parts of a finished run, built again from its config.yaml.

    reward: what it was paid by in training, its class and eight digits that tell its arguments from others; empty where
    that was the world itself. It is not built again: a trained agent is judged by the world.
    """

    def __init__(self, described: dict[str, Any], built: Namespace, seed: int, reward: str = "") -> None:
        self.described, self.reward = described, reward
        self.world: World = built.world
        self.encoder: ObjectEncoder = built.encoder
        self.pooling: PoolingFactory = built.pooling
        self.seed = seed


def read_run(
    folder: str | Path,
    *,
    trust: bool = False,
    world_arguments: Arguments | None = None,
    encoder_arguments: Arguments | None = None,
) -> Run:
    """Build world, encoder and pooling of the run in `folder`.

    trust: accept classes outside `ocl.instantiate.ALLOWED`; importing them runs their code.
    world_arguments: constructor arguments of the world to replace; they are the caller's own, hence trusted.
    encoder_arguments: likewise of the encoder; those that it does not take are left out.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a config that is damaged or names a class outside the allowed packages, a part that cannot be
            built, or a world that remembers slots of another encoder than in training.
    """
    described, seed, reward = _read(folder, trust)
    world = {} if world_arguments is None else world_arguments.content
    encoder = {} if encoder_arguments is None else encoder_arguments.content
    if encoder:
        taken = arguments_of(described["encoder"])
        encoder = {name: value for name, value in encoder.items() if name in taken}
    for part, changes in (("world", world), ("encoder", encoder)):
        if changes:
            described[part] = described[part] | {"init_args": (described[part].get("init_args") or {}) | changes}
    built = build(described)
    if "encoder" not in world:
        _check_remembered(Path(folder), built.world)
    return Run(described, built, seed, reward)


def _check_remembered(folder: Path, world: World) -> None:
    """Raises ValueError where the world shows slots of another encoder than in training: one whose checkpoint was
    written anew, which nothing else tells, since such slots are the world's and not the run's encoder's."""
    path, now = folder / "manifest.json", world.provenance().get("slots")
    if now is None or not path.is_file():
        return
    then = read_json(path)["config"]["world"].get("slots")
    if then != now:
        raise ValueError(
            f"{folder} was trained on slots of the encoder {str(then)[:12]}, its world now gives those of {now[:12]}; "
            "restore that encoder's checkpoint."
        )


def encoder_arguments_of(folder: str | Path, *, trust: bool = False) -> set[str]:
    """What the encoder of the run in `folder` could be built with; raises as `read_run` does."""
    return arguments_of(_read(folder, trust)[0]["encoder"])


def arguments_of(node: Mapping[str, Any]) -> set[str]:
    """The names of the arguments of the class or function that a node names."""
    module, name = str(node["class_path"]).rsplit(".", 1)
    return set(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def _read(folder: str | Path, trust: bool) -> tuple[dict[str, Any], int, str]:
    """The nodes of world, encoder and pooling, all of allowed packages or trusted, the seed and the reward's name."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run's folder is what `rl-probes ppo` wrote.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        described = {key: content[key] for key in PARTS}
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not the config of a run; restore it from a copy.") from error
    foreign = [] if trust else [text for text in _texts(described) if _is_foreign(text)]
    if foreign:
        raise ValueError(
            f"{path} names {foreign[0]!r}, outside {', '.join(ALLOWED)}; pass trust only for a file whose author you "
            "trust to run code on this machine."
        )
    reward = content.get("reward") or {}
    return described, int(content.get("seed", 0)), _named(reward) if isinstance(reward, dict) and reward else ""


def _named(node: Mapping[str, Any]) -> str:
    arguments = json.dumps(node.get("init_args") or {}, sort_keys=True, default=str)
    name = str(node.get("class_path", "")).rsplit(".", 1)[-1]
    return f"{name} {hashlib.sha256(arguments.encode()).hexdigest()[:8]}"


def build(described: dict[str, Any]) -> Namespace:
    """Build the parts of a run that `described` names by class path: world, encoder, pooling, or some of them.

    Raises:
        ValueError: a part that cannot be built.
    """
    parser = ArgumentParser(exit_on_error=False)
    for name in described:
        parser.add_argument(f"--{name}", type=PARTS[name])
    try:
        return parser.instantiate_classes(parser.parse_object(described))
    except ArgumentError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{' and '.join(described)} cannot be built: {reason}") from error


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
    """Whether building could import it from outside the allowed packages: a class may be named by a bare dotted
    text, or by a text that is YAML itself, and a gymnasium id may begin with "package:". Nothing is imported to find
    out."""
    if text.startswith(tuple(f"{package}." for package in ALLOWED)):
        return False
    module, colon, _ = text.partition(":")
    parts = module.split(".")
    named = (colon or len(parts) > 1) and all(part.isidentifier() for part in parts)
    return bool(named and find_spec(parts[0]) is not None) or (text != "class_path" and "class_path" in text)

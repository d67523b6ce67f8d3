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
SETTINGS = ("ppo", "standardise", "bootstrap_timeouts", "scale_rewards")
"""Of `rl-probes ppo`, what makes another agent of the same parts, seed and reward."""


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
    settings: eight digits that tell apart runs that were trained otherwise on the same world, encoder and reward.
    """

    def __init__(self, described: dict[str, Any], built: Namespace, seed: int, reward: str, settings: str) -> None:
        self.described, self.reward, self.settings = described, reward, settings
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
    world_arguments: constructor arguments of the world to replace, of a `SlotMemory` or else of the world in it; they
        are the caller's own, hence trusted.
    encoder_arguments: likewise of the encoder; those that it does not take are left out.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a config that is damaged or names a class outside the allowed packages, a part that cannot be
            built, an encoder or a world's remembered slots that are others than in training.
    """
    described, seed, reward, settings = _read(folder, trust)
    world = {} if world_arguments is None else world_arguments.content
    encoder = {} if encoder_arguments is None else encoder_arguments.content
    if encoder:
        taken = arguments_of(described["encoder"])
        encoder = {name: value for name, value in encoder.items() if name in taken}
        if encoder:  # what they change has another fingerprint, so the agent cannot tell whether it is still its own
            _check_encoder(Path(folder), described["encoder"])
    for part, changes in (("world", world), ("encoder", encoder)):
        if changes:
            described[part] = _with_arguments(described[part], changes)
    built = build(described)
    if "encoder" not in world:
        _check_remembered(Path(folder), built.world)
    return Run(described, built, seed, reward, settings)


def _with_arguments(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The node with arguments replaced; those that it does not take are of the world that it holds, if it holds one."""
    own, changes = dict(node.get("init_args") or {}), dict(changes)
    if isinstance(inner := own.get("world"), Mapping):
        further = {name: changes.pop(name) for name in set(changes) - arguments_of(node)}
        own["world"] = _with_arguments(inner, further)
    return {**node, "init_args": own | changes}


def _check_encoder(folder: Path, node: dict[str, Any]) -> None:
    """Raises ValueError where the encoder of a run is another than in training."""
    path = folder / "manifest.json"
    if not path.is_file():
        return
    then, now = read_json(path)["config"]["encoder"], build({"encoder": node}).encoder.fingerprint
    if then != now:
        raise ValueError(
            f"{folder} was trained on the encoder {str(then)[:12]}, its config now gives {now[:12]}; restore that "
            "encoder's checkpoint."
        )


def _check_remembered(folder: Path, world: World) -> None:
    """Raises ValueError where the world shows slots of another encoder than in training: one whose checkpoint was
    written anew, which nothing else tells, since such slots are the world's and not the run's encoder's."""
    path, now = folder / "manifest.json", world.provenance().get("memory", {}).get("slots")
    if now is None or not path.is_file():
        return
    then = read_json(path)["config"]["world"].get("memory", {}).get("slots")
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


def _read(folder: str | Path, trust: bool) -> tuple[dict[str, Any], int, str, str]:
    """The nodes of world, encoder and pooling, all of allowed packages or trusted, the seed, the reward's name and the
    digits of the settings."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; a run's folder is what `rl-probes ppo` wrote.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        described = {key: content[key] for key in PARTS}
        if not all(isinstance(node, str | Mapping) for node in described.values()):
            raise TypeError("a part that names no class")
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not the config of a run; restore it from a copy.") from error
    foreign = [] if trust else [text for text in _texts(described) if _is_foreign(text)]
    if foreign:
        raise ValueError(
            f"{path} names {foreign[0]!r}, outside {', '.join(ALLOWED)}; pass trust only for a file whose author you "
            "trust to run code on this machine."
        )
    reward = content.get("reward") or {}
    name = _named(reward) if isinstance(reward, dict) and reward else ""
    settings = {key: content.get(key) for key in SETTINGS} | {"pooling": described["pooling"]}
    world = described["world"].get("init_args") or {}
    if isinstance(inner := world.get("world"), Mapping):
        settings["memory"] = {name: value for name, value in world.items() if name != "world"}
        world = inner.get("init_args") or {}
    settings["num_envs"] = world.get("num_envs")
    return described, int(content.get("seed", 0)), name, _digits(settings)


def _named(node: Mapping[str, Any]) -> str:
    name = str(node.get("class_path", "")).rsplit(".", 1)[-1]
    return f"{name} {_digits(node.get('init_args') or {})}"


def _digits(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:8]


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

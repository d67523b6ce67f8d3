"""Tasks, representations and seeds -> cells, with everything checked before the first one starts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ocl.representations import ObjectEncoder
from rl_probes.benchmark.grid import CHANCE, HELD_OUT, Cell, Node, Representation, Task
from rl_probes.envs.world import World
from rl_probes.runs import build

NAME = re.compile(r"\w[\w.-]*")
FREE = {"total_steps", "snapshot_every", "device", "threads"}
"""Settings that a begun cell may be continued with other values of."""


def cells(
    tasks: Sequence[Task],
    representations: Sequence[Representation],
    seeds: Sequence[int],
    folder: Path,
    training: dict[str, Any],
    evaluation: dict[str, Any],
) -> list[Cell]:
    """Chance on every task, then every agent, seed by seed: an interrupted benchmark has compared all on some seeds.

    Every encoder and world is built once, for its fingerprint and its build.

    training: arguments of `rl_probes.train.train_agent` that all agents share; evaluation: what all evaluations share.
    Both hold JSON values.

    Raises:
        ValueError: nothing to do, a name twice or that cannot be a folder's, a seed twice or negative, an encoder that
            reads what a world cannot give or frames of another size, the same encoder as two seeds of one
            representation, or a part that cannot be built.
    """
    _check_names("task", [task.name for task in tasks])
    _check_names("representation", [one.name for one in representations])
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must differ and be at least 0, at least one, got {list(seeds)}.")
    asked, worlds = {}, {}
    for task in tasks:
        found = {split: _facts_of(node, f"{split} of {task.name}") for split, node in task.splits.items()}
        splits = {split: {"world": node.content, "build": found[split].build} for split, node in task.splits.items()}
        asked[task.name] = evaluation | {"splits": splits}
        worlds[task.name] = list(found.values())
    encoders = {}
    for one in representations:
        if not one.encoders:
            raise ValueError(f"{one.name} needs at least one encoder.")
        built = [_encoder_of(node, one.name) for node in one.encoders]
        encoders[one.name] = [_identity_of(encoder) for encoder in built]
        if len({encoder.fingerprint for encoder in built}) < len(built):
            raise ValueError(f"{one.name} names an encoder twice; the same one again is no second encoder seed.")
        for encoder, task in product(built, tasks):
            _check_reads(encoder, one, task.name, worlds[task.name])

    chance = [
        Cell(task.name, CHANCE, 0, 0, folder / "cells" / task.name / "chance", {}, {}, _plain(asked[task.name]))
        for task in tasks
    ]
    most = max(len(one.encoders) for one in representations)
    order = product(seeds, range(most), tasks, representations)
    return chance + [
        _cell(task, one, number, seed, folder, training, encoders[one.name][number], asked[task.name])
        for seed, number, task, one in order
        if number < len(one.encoders)
    ]


def _cell(
    task: Task,
    one: Representation,
    number: int,
    seed: int,
    folder: Path,
    training: dict[str, Any],
    encoder: dict[str, Any],
    asked: dict[str, Any],
) -> Cell:
    """The agent `seed` on encoder `number` of `one`."""
    own = {"bootstrap_timeouts": task.bootstrap_timeouts, "scale_rewards": task.scale_rewards}
    parts = {
        "world": task.world.with_arguments(seed=seed),
        "encoder": one.encoders[number].content,
        "pooling": one.pooling.content,
    }
    run = {"seed": seed, **parts, **own, **training, "standardise": one.standardise}
    run |= {} if one.ppo is None else {"ppo": asdict(one.ppo)}
    fixed = {name: value for name, value in run.items() if name not in FREE | {"encoder"}}
    return Cell(
        task.name,
        one.name,
        number,
        seed,
        folder / "cells" / task.name / one.name / f"encoder-{number}-agent-{seed}",
        _plain(run),
        _plain(encoder | fixed | {"build": asked["splits"][HELD_OUT]["build"]}),
        _plain(asked | {"total_steps": training["total_steps"]}),
    )


def _check_names(what: str, names: Sequence[str]) -> None:
    if not names:
        raise ValueError(f"a benchmark needs at least one {what}.")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the {what} {name} is given twice; name the two differently.")
        if not NAME.fullmatch(name) or name == "chance":
            raise ValueError(
                f"the {what}'s name {name!r} must be a folder's too, and not 'chance': letters, digits, '_', '-', '.'."
            )


class _Facts(NamedTuple):
    """Of a world: what the simulator says of itself, the fields it gives, (H, W) of its frames."""

    build: dict[str, Any]
    fields: frozenset[str]
    image_size: tuple[int, int]


def _facts_of(node: Node, name: str) -> _Facts:
    try:
        world: World = build({"world": node.content}).world
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    facts = _Facts(world.provenance(), world.fields, (world.image_size[0], world.image_size[1]))
    world.close()
    return facts


def _encoder_of(node: Node, name: str) -> ObjectEncoder:
    try:
        encoder: ObjectEncoder = build({"encoder": node.content}).encoder
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return encoder


def _identity_of(encoder: ObjectEncoder) -> dict[str, Any]:
    """What tells an encoder from others."""
    return {"encoder": encoder.fingerprint, "number of slots": encoder.num_slots, "width": encoder.dim}


def _check_reads(encoder: ObjectEncoder, one: Representation, task: str, worlds: Sequence[_Facts]) -> None:
    """Raises ValueError where a world of the task cannot give what the encoder reads, at the size it reads it."""
    size = getattr(encoder, "image_size", None)  # absent, or a number, where frames of any size are read
    for world in worlds:
        missing = encoder.requires - world.fields
        if missing:
            raise ValueError(f"{one.name} reads {sorted(missing)}, which {task} cannot give.")
        if isinstance(size, tuple) and size != world.image_size and not one.resize:
            (height, width), (own_height, own_width) = world.image_size, size
            raise ValueError(
                f"{one.name} reads frames of {own_height} x {own_width} and {task} draws {height} x {width}; change "
                f"the world's image_size, or give {one.name} resize: true."
            )


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back from JSON."""
    return dict(json.loads(json.dumps(value)))

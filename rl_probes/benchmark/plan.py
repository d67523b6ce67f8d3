"""Tasks, representations and seeds -> cells, with everything checked before the first one starts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from rl_probes.benchmark.grid import CHANCE, HELD_OUT, Cell, Node, Representation, Task
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
            reads what a world cannot give, or a part that cannot be built.
    """
    _check_names("task", [task.name for task in tasks])
    _check_names("representation", [one.name for one in representations])
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must differ and be at least 0, at least one, got {list(seeds)}.")
    asked, fields = {}, {}
    for task in tasks:
        found = {split: _build_of(node, f"{split} of {task.name}") for split, node in task.splits.items()}
        splits = {split: {"world": node.content, "build": found[split][0]} for split, node in task.splits.items()}
        asked[task.name] = evaluation | {"splits": splits}
        fields[task.name] = frozenset.intersection(*(given for _, given in found.values()))
    encoders = {}
    for one in representations:
        if not one.encoders:
            raise ValueError(f"{one.name} needs at least one encoder.")
        encoders[one.name] = [_identity_of(node, one.name) for node in one.encoders]
        for task in tasks:
            missing = encoders[one.name][0][1] - fields[task.name]
            if missing:
                raise ValueError(f"{one.name} reads {sorted(missing)}, which {task.name} cannot give.")

    chance = [
        Cell(task.name, CHANCE, 0, 0, folder / "cells" / task.name / "chance", {}, {}, _plain(asked[task.name]))
        for task in tasks
    ]
    most = max(len(one.encoders) for one in representations)
    order = product(seeds, range(most), tasks, representations)
    return chance + [
        _cell(task, one, number, seed, folder, training, encoders[one.name][number][0], asked[task.name])
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


def _build_of(node: Node, name: str) -> tuple[dict[str, Any], frozenset[str]]:
    """What the simulator says of itself, and the fields it gives."""
    try:
        world = build({"world": node.content}).world
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    provenance, fields = world.provenance(), world.fields
    world.close()
    return provenance, fields


def _identity_of(node: Node, name: str) -> tuple[dict[str, Any], frozenset[str]]:
    """What tells an encoder from others, and the fields it reads."""
    try:
        encoder = build({"encoder": node.content}).encoder
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    facts = {"encoder": encoder.fingerprint, "number of slots": encoder.num_slots, "width": encoder.dim}
    return facts, encoder.requires


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back from JSON."""
    return dict(json.loads(json.dumps(value)))

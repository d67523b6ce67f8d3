"""What a benchmark runs: every representation on every task with every seed, each cell a folder with a cell.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jsonargparse.typing import register_type

from ocl.files import read_json, write_json
from rl_probes.ppo import PPOConfig

CELL, EPISODES, ANIMATION = "cell.json", "episodes.json", "episode.gif"
CHANCE = "random policy"
HELD_OUT = "held-out seeds"


class Node:
    """A class path with its arguments, as in a config file, and not yet built: each worker builds its own.

    Raises:
        ValueError: no mapping, or one without a class_path.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        if not isinstance(content, Mapping) or not isinstance(content.get("class_path"), str):
            raise ValueError(f"needs a class_path, and init_args where it takes any, got {content!r}.")
        self.content = dict(content)

    def with_arguments(self, **arguments: Any) -> dict[str, Any]:
        """The content with more init_args."""
        return self.content | {"init_args": {**(self.content.get("init_args") or {}), **arguments}}


register_type(Node, lambda node: node.content, Node, deserializer_exceptions=ValueError)


@dataclass(frozen=True)
class Task:
    """What agents are trained and measured on.

    Args:
        name: in the table, and of a folder.
        world: the class path of a `World`; it takes the agent's seed.
        held_out: further worlds by name, such as other objects or levels, that trained agents are also measured in.
        by_return: score by return even where the world reports success.
        score_range: scores that count as 0 and 1; None takes those of a random policy and of the ceiling.
        bootstrap_timeouts: whether an episode that ran out of time is cut off (True) or over (False).
        scale_rewards: divide rewards by the running deviation of the return while training.

    Raises:
        ValueError: a held-out world that has the name of the training world's own episodes, or a range that does not
            rise.
    """

    name: str
    world: Node
    held_out: dict[str, Node] = field(default_factory=dict)
    by_return: bool = False
    score_range: tuple[float, float] | None = None
    bootstrap_timeouts: bool = True
    scale_rewards: bool = False

    def __post_init__(self) -> None:
        if HELD_OUT in self.held_out:
            raise ValueError(f"{self.name}: {HELD_OUT!r} are episodes of the training world; name held_out otherwise.")
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"{self.name}: score_range must rise from what counts as 0, got {self.score_range}.")

    @property
    def splits(self) -> dict[str, Node]:
        """Where agents are measured: episodes of the training world with seeds never trained on, then `held_out`."""
        return {HELD_OUT: self.world, **self.held_out}


@dataclass(frozen=True)
class Representation:
    """What agents see.

    Args:
        name: in the table, and of a folder.
        encoders: class paths of frozen encoders, alike but for the seed they were trained with: one encoder seed each.
        pooling: the class path of a pooling.
        standardise: scale features by 2048 frames of random play before training; else take them as they are.
        ppo: settings of its agents; None takes those of the benchmark.
        resize: accept worlds whose frames the encoder has to resize, as a ViT of 224 pixels must.
    """

    name: str
    encoders: list[Node]
    pooling: Node
    standardise: bool = True
    ppo: PPOConfig | None = None
    resize: bool = False


@dataclass(frozen=True, eq=False)
class Cell:
    """One agent, or chance on one task (no representation): its folder, and all that decides its figures.

    run: the config of `rl-probes ppo`. identity: what a folder with another agent differs in. evaluation: what its
    episodes.json answers.
    """

    task: str
    representation: str
    encoder_seed: int
    agent_seed: int
    folder: Path
    run: dict[str, Any]
    identity: dict[str, Any]
    evaluation: dict[str, Any]
    worker: ClassVar[str] = "rl_probes.benchmark.worker"

    @property
    def is_chance(self) -> bool:
        return not self.run

    @property
    def title(self) -> str:
        where = f"{self.representation} on {self.task}"
        return where if self.is_chance else f"{where}, encoder {self.encoder_seed}, agent {self.agent_seed}"

    def check(self) -> None:
        """Raises ValueError where the folder holds an agent that is not this one, in one sentence that says why."""
        begun = (self.folder / "snapshot.safetensors").is_file() or (self.folder / EPISODES).is_file()
        if not begun or self.is_chance:
            return
        found = read_json(self.folder / CELL) if (self.folder / CELL).is_file() else {"identity": {}, "run": {}}
        identity = found["identity"]
        different = [
            f"{name} ({_short(identity.get(name))} there, {_short(value)} here)"
            for name, value in self.identity.items()
            if identity.get(name) != value
        ]
        if found["run"].get("total_steps", 0) > self.run["total_steps"]:
            different.append("number of steps (more there)")
        if different:
            raise ValueError(
                f"{self.folder} holds a cell of {self.representation} with another {', '.join(different)}; name "
                "another folder for this benchmark, or delete that cell."
            )

    def prepare(self) -> None:
        write_json(self.folder / CELL, {"run": self.run, "identity": self.identity, "evaluation": self.evaluation})

    def result(self) -> dict[str, Any] | None:
        """The finished evaluation, as this cell asks for it, else None."""
        path = self.folder / EPISODES
        if not path.is_file():
            return None
        found: dict[str, Any] = read_json(path)
        return found if found["evaluation"] == self.evaluation else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 12 else f"{text[:12]}…"

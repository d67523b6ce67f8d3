"""Is EnvPool's Procgen the original one? The same levels and actions in both, frames and rewards compared.

The package `procgen` has no wheel for the Pythons of this project, so it plays in an environment of its own, which
needs numpy besides and nothing else:

    uv venv --python 3.10 procgen-venv
    uv pip install --python procgen-venv/bin/python procgen "numpy<2"
    procgen-venv/bin/python benchmarks/procgen_frames.py write frames.npz
    python benchmarks/procgen_frames.py compare frames.npz

A level is `start_level` with `num_levels` 1 in both. The original shows no terminal frame, since it begins the next
episode within the step: frames are compared up to the last one before an episode's end, rewards including it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

GAMES = ["bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"]
GAMES += ["heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"]


def write(file: Path, levels: int, steps: int) -> None:
    """Play with the original and store actions (G L T), frames (G L T+1 64 64 3), rewards (G L T) and lengths (G L):
    steps up to and including the end of the first episode."""
    from importlib.metadata import version

    from procgen import ProcgenGym3Env

    actions = np.random.default_rng(0).integers(15, size=(len(GAMES), levels, steps))
    frames = np.zeros((len(GAMES), levels, steps + 1, 64, 64, 3), np.uint8)
    rewards, lengths = np.zeros(actions.shape, np.float32), np.zeros(actions.shape[:2], np.int64)
    for g, game in enumerate(GAMES):
        for level in range(levels):
            env = ProcgenGym3Env(1, game, num_levels=1, start_level=level, distribution_mode="easy", rand_seed=0)
            frames[g, level, 0] = env.observe()[1]["rgb"][0]
            for step in range(steps):
                env.act(actions[g, level, step : step + 1].astype(np.int32))
                reward, seen, first = env.observe()
                rewards[g, level, step], frames[g, level, step + 1] = reward[0], seen["rgb"][0]
                lengths[g, level] = step + 1
                if first[0]:
                    break
            env.close()
    temporary = file.with_name(f".{file.name}.tmp.npz")
    build = f"procgen {version('procgen')}, numpy {np.__version__}"
    np.savez_compressed(
        temporary, games=GAMES, actions=actions, frames=frames, rewards=rewards, lengths=lengths, build=build
    )
    os.replace(temporary, file)


class Comparison(NamedTuple):
    """One game: how many frames there are and how many of them are equal; the mean and largest absolute difference in
    grey levels; whether all first frames, all rewards and all lengths of episodes are equal."""

    game: str
    frames: int
    equal: int
    difference: float
    largest: int
    first_frames: bool
    rewards: bool
    lengths: bool


def compare(file: Path) -> Iterator[Comparison]:
    """Play the same with EnvPool."""
    from rl_probes.envs.procgen import ProcgenWorld

    stored: dict[str, NDArray[Any]] = dict(np.load(file))
    images = frozenset({"images"})
    for g, game in enumerate(stored["games"].tolist()):
        differences: list[float] = []
        largest, first, rewards, lengths = 0, [], [], []
        for level, length in enumerate(stored["lengths"][g]):
            world = ProcgenWorld(game, 1, num_levels=1, start_level=level)
            paid, over, step = [], False, 0
            for step in range(length):
                seen = world.observe(images).images[0].permute(1, 2, 0).numpy().astype(np.int64)
                difference = np.abs(seen - stored["frames"][g, level, step])
                differences.append(float(difference.mean()))
                largest = max(largest, int(difference.max()))
                first += [differences[-1] == 0] if step == 0 else []
                outcome = world.step(stored["actions"][g, level, step : step + 1])
                paid.append(outcome.reward[0])
                over = bool(outcome.terminated[0] or outcome.truncated[0])
                if over:
                    break
            world.close()
            ended = length < stored["actions"].shape[2] or bool(over)
            rewards.append(np.array_equal(paid, stored["rewards"][g, level, :length]))
            lengths.append(step + 1 == length and over == ended)
        equal = int(np.sum(np.array(differences) == 0))
        mean = float(np.mean(differences))
        yield Comparison(game, len(differences), equal, mean, largest, all(first), all(rewards), all(lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["write", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.file, arguments.levels, arguments.steps)
        return
    print(f"{np.load(arguments.file)['build']}")
    for row in compare(arguments.file):
        exact = (("first frames", row.first_frames), ("rewards", row.rewards), ("lengths of episodes", row.lengths))
        print(
            f"{row.game:10s} {row.equal:4d} of {row.frames:4d} frames equal, mean difference {row.difference:.4f}, "
            f"largest {row.largest}; " + ", ".join(f"{name} {'equal' if same else 'differ'}" for name, same in exact),
            flush=True,
        )


if __name__ == "__main__":
    main()

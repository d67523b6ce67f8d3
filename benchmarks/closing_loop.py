"""Agents trained on predicted rewards: pushing, hacking and exploration, every arm with several seeds.

python benchmarks/closing_loop.py push --folder runs/closing_loop [--seeds 0 1 2] [--steps 1500000] [--processes 4]
python benchmarks/closing_loop.py maze --folder runs/closing_loop --steps 200000
python benchmarks/closing_loop.py hacking --folder runs/closing_loop --steps 120000

push: paid by the world (sparse), by the world shaped with a fitted value, by a fitted progress head alone: training
steps until half of the last 100 episodes succeed, and success on 500 held-out episodes normalised by random play and
the sparse arm. Both heads are fitted on 98,304 frames of an expert that errs, in a minute and a half.
maze: coverage without a bonus, with RND, with RDD. hacking: whether and when the monitor fires on Object Goal, for a
reward of any movement of the agent and for a sound one. All on the object list, with the default settings of PPO.
Started again, it goes on where it stopped; intervals are bootstraps over seeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ocl.files import write_json
from ocl.representations import OracleObjects
from rl_probes.closing_loop import (
    AnyMovement,
    GivenReward,
    HackingMonitor,
    HackingWarning,
    NoveltyBonus,
    PredictedReward,
    RewardScheme,
    ShapedReward,
)
from rl_probes.collect import collect
from rl_probes.controls import RandomAgent
from rl_probes.envs.maze import MazeWorld
from rl_probes.envs.scripted import expert_actions
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.world import World
from rl_probes.evaluate import evaluate
from rl_probes.fit_rewards import fit_progress
from rl_probes.labels import with_discounted_success
from rl_probes.players import Scripted
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, train
from rl_probes.progress import read_progress, steps_to_success
from rl_probes.recording import Recording
from rl_probes.rewards.checkpoint import save_head
from rl_probes.statistics import mean, with_interval

ARMS = {
    "push": ("sparse", "shaped", "predicted"),
    "maze": ("none", "RND", "RDD"),
    "hacking": ("any movement", "predicted"),
}
HELD_OUT = np.arange(1_000_000, 1_000_500)
MOST_STEPS = {"push": 1_500_000, "maze": 200_000, "hacking": 120_000}


def world_of(study: str, task: str, seed: int, num_envs: int = 32) -> World:
    return MazeWorld(num_envs, seed=seed) if study == "maze" else SpriteWorld(task, num_envs, seed=seed)


def encoder_of(world: World) -> OracleObjects:
    count = world.observe(frozenset({"objects"})).objects["scale"].shape[1]
    return OracleObjects(count, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})


def fit_heads(folder: Path, task: str) -> None:
    """A head of the task's own progress and one of the recorded players' discounted success."""
    world = SpriteWorld(task, 32)
    players, frames = [Scripted(expert_actions)], folder / "frames"
    collect(world, frames, task, 98_304, encoder_of(world), players, (0.0, 0.5), 768)
    recording = Recording.load(frames)
    for name, labelled in (("progress", recording), ("value", with_discounted_success(recording, PPOConfig.gamma))):
        training, validation, _ = labelled.split()
        save_head(fit_progress(training, validation, epochs=12), folder / name)


def reward_of(arm: str, heads: Path) -> RewardScheme | None:
    match arm:
        case "shaped":
            return ShapedReward(heads / "value")
        case "predicted":
            return PredictedReward(heads / "progress")
        case "RND" | "RDD":
            return NoveltyBonus(sigma=float(arm == "RDD"))
        case "any movement":
            return GivenReward(AnyMovement(position=[0, 1], objects=[12]))  # of the agent
    return None


def run(study: str, task: str, arm: str, seed: int, steps: int, folder: Path) -> tuple[str, int, float]:
    """Train one arm; its success on the held-out episodes, or its coverage."""
    torch.set_num_threads(1)
    world, reward = world_of(study, task, seed), reward_of(arm, folder.parent)
    watched = study != "maze" and reward is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HackingWarning)  # the table says it
        monitor = HackingMonitor(stop=study == "hacking") if watched else None
        agent = train(
            world,
            encoder_of(world),
            DeepSetPooling,
            folder=folder,
            total_steps=steps,
            seed=seed,
            reward=reward,
            monitor=monitor,
        )
    if isinstance(world, MazeWorld):
        return arm, seed, read_progress(folder / "progress.csv")[-1]["coverage"]
    return arm, seed, float(evaluate(agent, world, HELD_OUT).success.mean())


def interval(values: list[float]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = with_interval(values, mean)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=ARMS)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--task", help="of pushing: push, or push N1C1S1S1, which is learnt much sooner")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of every run")
    parser.add_argument("--processes", type=int, default=3)
    arguments = parser.parse_args()
    study, task = arguments.study, arguments.task or ("object goal" if arguments.study == "hacking" else "push")
    steps, folder = arguments.steps or MOST_STEPS[study], arguments.folder / (study if study == "maze" else task)
    if study != "maze" and not (folder / "value" / "head.json").exists():
        torch.set_num_threads(1)
        fit_heads(folder, task)
    jobs = [(arm, seed, folder / f"{arm}-{seed}") for arm in ARMS[study] for seed in arguments.seeds]
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, study, task, arm, seed, steps, path) for arm, seed, path in jobs]
        scores = {(arm, seed): score for arm, seed, score in (one.result() for one in waiting)}

    rows = {(arm, seed): read_progress(path / "progress.csv") for arm, seed, path in jobs}
    table = Table(title=f"{study}: {steps:,} steps, seeds {arguments.seeds}")
    columns = ("arm", "coverage" if study == "maze" else "success", "normalised", "steps to 50 %", "monitor fired at")
    for column in columns:
        table.add_column(column)
    by_arm = {arm: [scores[arm, seed] for seed in arguments.seeds] for arm in ARMS[study]}
    low = high = float("nan")
    if study == "push":
        low = float(evaluate(RandomAgent(4), world_of(study, task, 0), HELD_OUT).success.mean())
        high = float(np.mean(by_arm["sparse"]))
    lines = []
    for arm, values in by_arm.items():
        curves = [rows[arm, seed] for seed in arguments.seeds]
        half = [None if np.isnan(steps) else int(steps) for steps in (steps_to_success(curve, 0.5) for curve in curves)]
        fired = [next((int(row["steps"]) for row in curve if row.get("hacking")), None) for curve in curves]
        normalised = f"{(np.mean(values) - low) / (high - low):.3f}" if high > low else "-"
        lines.append((arm, interval(values), normalised, str(half), str(fired)))
        table.add_row(*lines[-1])
    Console().print(table)
    write_json(folder / "results.json", [dict(zip(columns, line, strict=True)) for line in lines])


if __name__ == "__main__":
    main()

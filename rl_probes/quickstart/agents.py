"""PPO on Object Comparison with every subject's slots, played on the same episodes as a random policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.stats import binomtest
from torch import Tensor

from ocl.files import write_atomically, write_json, write_text
from ocl.pictures import overlay
from ocl.report import as_gif
from ocl.shapes import Decoded
from rl_probes.agent import Agent
from rl_probes.controls import RandomAgent
from rl_probes.evaluate import Episodes, evaluate, record_episode
from rl_probes.ppo import PPOConfig
from rl_probes.progress import read_progress
from rl_probes.quickstart.jobs import Job
from rl_probes.quickstart.stages import Row, Stage, row
from rl_probes.quickstart.subjects import Subject, decode, image_size_of
from rl_probes.runs import read_run
from rl_probes.train import FIRST_SEED, train_agent

RUN = "run"
"""Of a stage's folder: what `rl-probes ppo` writes and `rl-probes evaluate` reads."""
ANIMATION = "episode.gif"
NEARLY_BLACK = -0.7
"""Of colours in [-1, 1]."""
WATCHED = 15
"""Steps of the episode that is shown, as near as there is one."""


def read_config(path: Path) -> dict[str, Any]:
    """The complete config of a PPO run whose encoder each subject replaces.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; run in the repository's root, or name another --agent_config.")
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def job(folder: Path, subject: Subject, config: dict[str, Any], steps: int, episodes: int, seed: int) -> Job:
    """`train_and_play` as a stage."""
    fingerprint = subject.encoder(episodes=True).fingerprint
    settings = {"encoder": fingerprint, "config": config, "steps": steps, "episodes": episodes}
    return Job(
        f"agents: {subject.title}",
        Stage(folder / "agents" / subject.name, settings, seed),
        partial(train_and_play, subject=subject, config=config, steps=steps, episodes=episodes, seed=seed),
        partial(_share_of_training, steps=steps),
    )


def chance_job(folder: Path, config: dict[str, Any], episodes: int, seed: int) -> Job:
    """`play_at_random` as a stage."""
    stage = Stage(folder / "agents" / "random_policy", {"config": config, "episodes": episodes}, seed)
    work = partial(play_at_random, config=config, episodes=episodes, seed=seed)
    return Job("agents: random policy", stage, work)


def train_and_play(
    folder: Path, subject: Subject, config: dict[str, Any], steps: int, episodes: int, seed: int
) -> list[Row]:
    """Train, or continue to train, then play."""
    run_folder = folder / RUN
    content = {**config, "folder": str(run_folder), "seed": seed, "total_steps": steps}
    world = content["world"]["init_args"] | {"seed": seed, "image_size": image_size_of(subject.encoder())}
    content["world"] = {**content["world"], "init_args": world}
    if subject.checkpoint is not None:
        loader = {"class_path": "ocl.checkpoints.load_encoder", "init_args": {"folder": str(subject.checkpoint)}}
        content["encoder"] = loader
    write_text(run_folder / "config.yaml", yaml.safe_dump(content, sort_keys=False))
    run = read_run(run_folder)
    built = {"world": run.world, "encoder": run.encoder, "pooling": run.pooling, "ppo": PPOConfig(**content["ppo"])}
    agent = train_agent(**{**content, **built, "folder": run_folder})

    seeds = np.arange(FIRST_SEED, FIRST_SEED + episodes)
    played = evaluate(agent, run.world, seeds)
    outcome = {name: getattr(played, name).tolist() for name in ("seeds", "returns", "lengths", "success")}
    write_json(folder / "evaluation.json", outcome | {"action_mode": played.action_mode})
    if subject.checkpoint is not None:
        animation = as_gif(_watched(agent, subject, run.world, played))
        write_atomically(folder / ANIMATION, lambda path: path.write_bytes(animation))
    last = read_progress(run_folder / "progress.csv")[-1]
    return [
        *_scores(subject.name, played, seed),
        row(f"agent/{subject.name}/steps", last["steps"], "environment steps", seed, "training"),
        row(f"agent/{subject.name}/steps_per_second", last["steps"] / last["seconds"], "steps/s", seed, "training"),
    ]


def play_at_random(folder: Path, config: dict[str, Any], episodes: int, seed: int) -> list[Row]:
    """Chance, on the same episodes."""
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    world = read_run(folder).world
    played = evaluate(RandomAgent(world.num_actions), world, np.arange(FIRST_SEED, FIRST_SEED + episodes))
    return _scores("random_policy", played, seed)


def _share_of_training(folder: Path, steps: int) -> float:
    """How much of a run is done."""
    rows = read_progress(folder / RUN / "progress.csv")
    return min(1.0, rows[-1]["steps"] / steps) if rows else 0.0


def _scores(name: str, played: Episodes, seed: int) -> list[Row]:
    """Success with Wilson's interval over the episodes of this one run; other seeds of training may fall outside."""
    count, total = int(played.success.sum()), len(played.seeds)
    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    ends = {"low": float(interval.low), "high": float(interval.high)}
    return [
        row(f"agent/{name}/success", count / total, "fraction", seed, "held-out seeds", **ends),
        row(f"agent/{name}/episode_length", float(played.lengths.mean()), "steps", seed, "held-out seeds"),
    ]


def _watched(agent: Agent, subject: Subject, world: Any, played: Episodes) -> Tensor:
    """(T 3 H 2W) uint8: frames beside their slots. A success of about `WATCHED` steps, where there is one."""
    unlike = np.abs(played.lengths - WATCHED) + 1000 * (played.success != 1)
    images = torch.from_numpy(record_episode(agent, world, int(played.seeds[unlike.argmin()])).images)
    decoded = decode(subject.masking_encoder(), images)
    labels = painted_by(decoded, (images.shape[-2], images.shape[-1]))
    return torch.cat([images, overlay(images, labels, decoded.masks.shape[1])], dim=3)


def painted_by(decoded: Decoded, size: tuple[int, int]) -> Tensor:
    """(T H W) index of the slot that wins each pixel; -1 where what is painted is black, which any slot can do."""
    both = torch.cat([decoded.masks, decoded.prediction], dim=1)
    both = torch.nn.functional.interpolate(both.float(), size, mode="bilinear", align_corners=False)
    masks, prediction = both[:, :-3], both[:, -3:]
    return masks.argmax(1).masked_fill(prediction.amax(1) < NEARLY_BLACK, -1)

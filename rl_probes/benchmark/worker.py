"""One cell in a process of its own: train, or go on training, then play.

`python -m rl_probes.benchmark.worker FOLDER`. Of two processes that are given the same folder, the second finds the
cell finished.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from ocl.commands import exit_with_sentence
from ocl.files import read_json, write_atomically, write_json, write_text
from ocl.pictures import overlay
from ocl.processes import serve
from ocl.report import as_gif
from ocl.shapes import Batch
from rl_probes.agent import Agent
from rl_probes.benchmark.grid import ANIMATION, CELL, EPISODES
from rl_probes.controls import RandomAgent
from rl_probes.envs.world import World
from rl_probes.evaluate import Actor, evaluate, record_episode
from rl_probes.ppo import PPOConfig
from rl_probes.progress import read_progress
from rl_probes.runs import build
from rl_probes.train import train_agent


def run(folder: Path) -> None:
    """Do what `folder`/cell.json says and is not done yet; leaves what `rl-probes ppo` leaves, and episodes.json."""
    cell = read_json(folder / CELL)
    path = folder / EPISODES
    if path.is_file() and read_json(path)["evaluation"] == cell["evaluation"]:
        return
    torch.set_num_threads(1)
    agent = _train(folder, cell["run"]) if cell["run"] else None
    asked = cell["evaluation"]
    seeds = np.arange(asked["first_seed"], asked["first_seed"] + asked["episodes"])
    splits = {}
    for number, (name, split) in enumerate(asked["splits"].items()):
        world = build({"world": split["world"]}).world
        actor: Actor = agent or RandomAgent(world.num_actions)
        # A random policy has no most likely action: its episodes are chance for agents of either mode.
        played = evaluate(actor, world, seeds, most_likely=asked["most_likely"] and agent is not None)
        splits[name] = {one: getattr(played, one).tolist() for one in ("returns", "lengths", "success")}
        splits[name]["success"] = [None if np.isnan(value) else value for value in played.success]
        if number == 0:
            animation = as_gif(_watched(actor, world, int(seeds[0])))
            write_atomically(folder / ANIMATION, lambda file: file.write_bytes(animation))  # noqa: B023
        world.close()
    training = read_progress(folder / "progress.csv")
    facts: dict[str, Any] = {"steps": training[-1]["steps"], "seconds": training[-1]["seconds"]} if training else {}
    if agent is not None:
        encoder = agent.observer.encoder
        facts |= {"encoder": encoder.fingerprint, "tokens": [encoder.num_slots, encoder.dim]}
    write_json(path, {"evaluation": asked, **facts, "splits": splits})


def _train(folder: Path, settings: dict[str, Any]) -> Agent:
    described = {"folder": str(folder)} | settings
    write_text(folder / "config.yaml", yaml.safe_dump(described, sort_keys=False))
    parts = build({name: settings[name] for name in ("world", "encoder", "pooling")})
    built = {"world": parts.world, "encoder": parts.encoder, "pooling": parts.pooling}
    agent = train_agent(**settings | built | {"folder": folder, "ppo": PPOConfig(**settings["ppo"])})
    parts.world.close()
    return agent


def _watched(actor: Actor, world: World, seed: int) -> Tensor:
    """(T 3 H W) or, beside the winning slots where the encoder has masks, (T 3 H 2W) uint8: one episode."""
    images = torch.from_numpy(record_episode(actor, world, seed).images)
    if not isinstance(actor, Agent) or actor.requires != {"images"}:
        return images
    masks = actor.observer.slots(Batch(images)).masks
    if masks is None:
        return images
    masks = F.interpolate(masks.float().cpu(), images.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([images, overlay(images, masks.argmax(dim=1), masks.shape[1])], dim=3)


if __name__ == "__main__":
    exit_with_sentence(lambda: serve(run))

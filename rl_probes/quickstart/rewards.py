"""How well the slots of Object Goal tell how far the task has come."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from ocl.files import write_json
from rl_probes.collect import collect
from rl_probes.envs.sprite_world import SpriteWorld, scripted_actions
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.evaluate_rewards import evaluate_progress
from rl_probes.fit_rewards import fit_progress
from rl_probes.players import Scripted
from rl_probes.predictions import predict_recording
from rl_probes.quickstart.jobs import Job
from rl_probes.quickstart.stages import Row, Stage, row
from rl_probes.quickstart.subjects import Subject, image_size_of
from rl_probes.recording import Recording
from rl_probes.rewards.checkpoint import save_head
from rl_probes.rewards.set_progress import ProgressHead

EXAMPLE = "example.json"
ENVIRONMENTS, LENGTH = 32, 256


def job(folder: Path, subject: Subject, frames: int, epochs: int, seed: int) -> Job:
    """`measure` as a stage."""
    settings = {"encoder": subject.encoder(episodes=True).fingerprint, "frames": frames, "epochs": epochs}
    return Job(
        f"rewards: {subject.title}",
        Stage(folder / "rewards" / subject.name, settings, seed),
        partial(measure, subject=subject, frames=frames, epochs=epochs, seed=seed),
    )


def measure(folder: Path, subject: Subject, frames: int, epochs: int, seed: int) -> list[Row]:
    """Record episodes as the subject's slots, fit a progress head on most of them and measure it on the others.

    The episodes are the same for every subject, and so are the figures of the controls.
    """
    encoder = subject.encoder(episodes=True)
    world = SpriteWorld(ObjectGoal(), ENVIRONMENTS, image_size_of(encoder), seed)
    length = min(LENGTH, -(-frames // ENVIRONMENTS))
    episodes = folder / "episodes"
    players = [Scripted(scripted_actions)]
    collect(world, episodes, "object goal", frames, encoder, players, length=length, seed=seed)
    recording = Recording.load(episodes)
    train, val, test = recording.split(seed=seed)
    head = fit_progress(train, val, epochs=epochs, seed=seed)
    save_head(head, folder, seed=seed, epochs=epochs)
    write_json(folder / EXAMPLE, _example(head, test))
    names = {"deep_set": subject.name, "oracle": "truth"}  # what `evaluate_progress` calls the oracle is the truth
    rows = []
    for found in evaluate_progress({"deep_set": head}, test, seed=seed, split="test episodes"):
        extra = {key: found[key] for key in ("low", "high") if key in found}
        parts = [names.get(part, part) for part in found["name"].split("/")]
        rows.append(row("/".join(parts), found["value"], found["unit"], seed, found["split"], **extra))
    return rows


def _example(head: ProgressHead, test: Recording) -> dict[str, list[float]]:
    """True and predicted progress of the longest episode that came to its end."""
    lengths = {int(test.episode[final]): int(test.step[final]) for final in test.finals()}
    frames = np.flatnonzero(test.episode == max(lengths, key=lambda name: (lengths[name], name)))
    predicted = predict_recording(head, test.take(frames))
    return {"true": test.progress[frames].tolist(), "predicted": predicted.tolist()}

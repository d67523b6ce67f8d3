"""The command: train slots, freeze them, read them, reward with them, act on them, and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ocl.files import write_json
from rl_probes.quickstart import agents, perception, rewards, tables
from rl_probes.quickstart.jobs import run_jobs
from rl_probes.quickstart.page import write_page
from rl_probes.quickstart.slots import make_untrained, train_slots, training_stage
from rl_probes.quickstart.stages import Row, Stage, row
from rl_probes.quickstart.subjects import PRETRAINED, Subject


def quickstart(
    folder: Path = Path("runs/quickstart"),
    slots_config: Path = Path("configs/quickstart/slots.yaml"),
    agent_config: Path = Path("configs/rl/object_comparison_oracle.yaml"),
    slot_steps: int | None = None,
    images: int = 4096,
    held_out: int = 1024,
    reward_frames: int = 65_536,
    reward_epochs: int = 15,
    agent_steps: int = 100_000,
    episodes: int = 500,
    seed: int = 0,
    threads: int = 2,
    processes: int = 4,
) -> list[dict[str, Any]]:
    """From images to agents: train slots, freeze, probe, predict rewards, run PPO, and report; run again to continue.

    Args:
        folder: Where everything goes: report.html, results.json, and a folder for every step.
        slots_config: Of `ocl fit`, for the slot model; its run's folder and seeds are set here.
        agent_config: Of `rl-probes ppo`, for the agents; the others run with their own encoder in the same place.
        slot_steps: Training steps of the slot model; the config's own where not given.
        images: Scenes that property probes are fitted on.
        held_out: Scenes that segmentation and probes are measured on.
        reward_frames: Frames of Object Goal that progress heads are fitted and measured on.
        reward_epochs: Passes over the training frames.
        agent_steps: Environment steps of every agent.
        episodes: Played by every trained agent and by a random policy.
        seed: Of the slot model, the probes, the heads and the agents.
        threads: Of torch, while the slot model trains.
        processes: How many of the later steps run side by side, with one thread each.
    """
    console = Console()
    console.rule("training slots", align="left")
    training = training_stage(folder / "slots", slots_config, slot_steps, threads, seed)
    if not training.is_done():
        train_slots(training, slots_config)
    trained = folder / "slots" / "model"
    subjects = [
        Subject("slots", "trained here", trained),
        *([Subject("pretrained", "pretrained", PRETRAINED)] if PRETRAINED.is_dir() else []),
        Subject("untrained", "untrained", make_untrained(trained, folder / "untrained", seed)),
        Subject("oracle", "oracle", None),
    ]

    console.rule("measuring slots, fitting rewards, training agents", align="left")
    config = agents.read_config(agent_config)
    perceiving = [perception.job(folder, one, images, held_out, seed) for one in subjects]
    rewarding = [rewards.job(folder, one, reward_frames, reward_epochs, seed) for one in subjects]
    acting = [agents.job(folder, one, config, agent_steps, episodes, seed) for one in subjects]
    chance = agents.chance_job(folder, config, episodes, seed)
    run_jobs([*acting, *rewarding, *perceiving, chance], processes)  # the longest first

    done = {"slots": training} | {job.title: job.stage for job in (*perceiving, *rewarding, *acting, chance)}
    rows = _gather(done, seed)
    write_json(folder / "results.json", rows)
    by_name = {found["name"]: found for found in rows}
    report = write_page(folder / "report.html", folder, subjects, by_name)
    for table in (tables.properties(by_name, subjects), tables.rewards(by_name, subjects)):
        console.print(table.rich(), "")
    console.print(tables.summary(by_name, subjects).rich())
    console.print(f"report: {report}", soft_wrap=True)
    return rows


def _gather(stages: Mapping[str, Stage], seed: int) -> list[Row]:
    """The rows of all stages and the seconds of each; figures that several stages have in common (controls) once."""
    rows: dict[str, Row] = {}
    for stage in stages.values():
        for found in stage.rows:
            rows.setdefault(found["name"], found)
    times = [row(f"time/{title}", stage.seconds, "s", seed, "all") for title, stage in stages.items()]
    return [*rows.values(), *times]

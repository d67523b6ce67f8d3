"""Commands: `rl-probes ppo` trains one agent, `rl-probes evaluate` compares trained ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ocl.files import write_json
from ocl.representations import ObjectEncoder
from rl_probes.agent import Agent, PoolingFactory
from rl_probes.closing_loop import HackingMonitor, RewardScheme
from rl_probes.controls import RandomAgent
from rl_probes.envs.world import World
from rl_probes.evaluate import Episodes, evaluate
from rl_probes.observation import Standardisation
from rl_probes.ppo import PPOConfig, train
from rl_probes.results import Result, curve_of, reference_range, rows, table
from rl_probes.runs import Arguments, Run, encoder_arguments_of, read_run

FIRST_SEED = 1_000_000
HELD_OUT = "held-out seeds"


def train_agent(
    world: World,
    encoder: ObjectEncoder,
    pooling: PoolingFactory,
    folder: Path,
    total_steps: int,
    seed: int = 0,
    ppo: PPOConfig = PPOConfig(),  # noqa: B008 (frozen)
    standardise: bool = True,
    bootstrap_timeouts: bool = True,
    scale_rewards: bool = False,
    reward: RewardScheme | None = None,
    monitor: HackingMonitor | None = None,
    snapshot_every: int = 10,
    device: str = "cpu",
    threads: int = 1,
) -> Agent:
    """Train a PPO agent on a frozen encoder's slots; run again to continue a run that was stopped.

    Args:
        world: The environments, stepped together; they take the run's seed.
        encoder: What turns frames into slots. Never trained.
        pooling: From the set of slots to one vector; trained with the policy.
        folder: Where manifest, progress, snapshot and agent are written.
        total_steps: Environment steps, over all environments together.
        seed: Of the policy's weights, the actions, the minibatches and the world.
        ppo: The algorithm's settings.
        standardise: Scale features by 2048 frames of random play before training; else take them as they are.
        bootstrap_timeouts: Whether an episode that ran out of time is cut off (True) or over (False).
        scale_rewards: Divide rewards by the running deviation of the return, as published Procgen results do.
        reward: What the agent is paid by instead of the world; returns and successes are logged of the world itself.
        monitor: Stops or warns where the predicted reward rises while the true return falls.
        snapshot_every: Rollouts between snapshots.
        device: Of the policy.
        threads: Of torch. One is fastest for small policies, and needed for bit-identical continuation.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}.")
    torch.set_num_threads(threads)
    return train(
        world,
        encoder,
        pooling,
        folder=folder,
        total_steps=total_steps,
        seed=seed,
        config=ppo,
        standardisation=None if standardise else Standardisation.identity(encoder.dim),
        bootstrap_timeouts=bootstrap_timeouts,
        scale_rewards=scale_rewards,
        reward=reward,
        monitor=monitor,
        snapshot_every=snapshot_every,
        device=device,
    )


def evaluate_agents(
    runs: list[Path],
    episodes: int = 500,
    first_seed: int = FIRST_SEED,
    most_likely: bool = False,
    by_return: bool = False,
    score_range: tuple[float, float] | None = None,
    reference: list[Path] | None = None,
    split: str = HELD_OUT,
    world_arguments: Arguments | None = None,
    encoder_arguments: Arguments | None = None,
    trust: bool = False,
    threads: int = 1,
) -> list[Result]:
    """Play the same episodes with every trained agent and with a random one, and print the table.

    Args:
        runs: Folders that `rl-probes ppo` wrote, all of one task; those that differ only in their seed share a line.
            Where they were trained with different settings, eight digits beside the pooling tell which.
        episodes: How many, from seed `first_seed` on.
        first_seed: The first of the evaluation seeds.
        most_likely: Take the most likely action instead of sampling.
        by_return: Score by return even where the world reports success.
        score_range: Scores that count as 0 and 1 in the column "normalised"; null: the published ones of a world that
            has such and is scored by return, else 0 and 1.
        reference: Those of the runs whose mean score counts as 1 in the column "normalised", a random agent's as 0:
            agents paid by the world itself, beside others paid by predicted rewards.
        split: What to call these episodes in the table; results of others than held-out seeds get a file of their own.
        world_arguments: Arguments of the runs' world to replace: another task, appearances, levels, a game's looks. Of
            a world within another one, too.
        encoder_arguments: Arguments of the runs' encoders to replace, in those that take them: num_slots.
        trust: Also build classes outside the allowed packages that a run's config names.
        threads: Of torch.
    """
    torch.set_num_threads(threads)
    if not runs or len({Path(folder).resolve() for folder in runs}) < len(runs):
        raise ValueError("runs: name at least one folder, and each of them once; a run twice is no second seed.")
    if split == HELD_OUT and world_arguments:
        raise ValueError(f'split: say what these episodes are called; "{HELD_OUT}" are those of the training world.')
    wanted = set() if encoder_arguments is None else set(encoder_arguments.content)
    unknown = wanted.difference(*(encoder_arguments_of(folder, trust=trust) for folder in runs))
    if unknown:
        raise ValueError(f"encoder_arguments: no encoder of these runs takes {', '.join(sorted(unknown))}.")
    reference = [] if reference is None else [Path(folder) for folder in reference]
    if reference and (score_range is not None or not set(reference) <= set(map(Path, runs))):
        raise ValueError("reference: name some of the runs, and leave score_range to them.")
    seeds = np.arange(first_seed, first_seed + episodes)
    file = "evaluation" if split == HELD_OUT else "evaluation_" + re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")
    results: list[Result] = []
    read = partial(read_run, trust=trust, world_arguments=world_arguments, encoder_arguments=encoder_arguments)
    _check_one_world(runs, read)
    for folder in runs:
        config = read(folder)
        agent = Agent.load(Path(folder) / "agent.safetensors", config.encoder, config.pooling)
        if not results:
            random = evaluate(RandomAgent(config.world.num_actions), config.world, seeds)
            if most_likely:  # has no most likely action; the table wants one mode
                random = Episodes(random.seeds, random.returns, random.lengths, random.success, "most likely")
            results.append(Result("random", "", None, "", 0, random))
        played = evaluate(agent, config.world, seeds, most_likely=most_likely)
        name, pooling = type(config.encoder).__name__, _class_name(config.described["pooling"])
        tokens = (config.encoder.num_slots, config.encoder.dim)
        facts = (name, config.encoder.fingerprint, tokens, pooling, config.seed, played)
        results.append(Result(*facts, curve_of(folder), config.reward, config.settings))
        by_return = by_return or bool(np.isnan(played.success).any())
        write_json(
            Path(folder) / f"{file}.json",
            {
                "world": config.world.provenance(),
                "rows": rows(results[-1:], split, by_return),
                "seeds": [int(seeds[0]), int(seeds[-1])],
                "action_mode": played.action_mode,
                "returns": played.returns.tolist(),
                "lengths": played.lengths.tolist(),
                "success": played.success.tolist() if not by_return else None,
            },
        )
        provenance, published = config.world.provenance(), config.world.score_range
        config.world.close()
    if reference:
        chosen = [result for folder, result in zip(runs, results[1:], strict=True) if Path(folder) in reference]
        score_range = reference_range(results[0], chosen, by_return)
    elif score_range is None:
        score_range = (published if by_return else None) or (0.0, 1.0)
    task = provenance.pop("environment")
    provenance.pop("memory", None)  # of the last run alone
    build = ", ".join(f"{name} {value}" for name, value in provenance.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the caption says it
        shown = table(results, task=task, split=split, environment=build, by_return=by_return, score_range=score_range)
    Console().print(shown)
    return results


def _check_one_world(runs: Sequence[Path], read: Callable[[Path], Run]) -> None:
    """Raises ValueError for runs in different worlds, before anything is played. What a memory shows of one makes no
    difference: the episodes are the same."""
    first: dict[str, Any] | None = None
    for folder in runs:
        world = read(folder).world
        played_in = {name: value for name, value in world.provenance().items() if name not in ("seed", "memory")}
        world.close()
        first = first or played_in
        if played_in != first:
            raise ValueError(f"{folder} is a run in another world than {runs[0]}; compare runs of one task at a time.")


def _class_name(node: dict[str, Any]) -> str:
    return str(node.get("class_path", "")).rsplit(".", 1)[-1]

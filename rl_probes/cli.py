"""`rl-probes <command> --config file.yaml`: every command is a function, its signature is the schema of its config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from ocl import commands
from rl_probes.benchmark import benchmark
from rl_probes.collect import collect
from rl_probes.quickstart.run import quickstart
from rl_probes.reward_benchmark.command import benchmark as reward_benchmark
from rl_probes.reward_benchmark.command import generate
from rl_probes.reward_report import evaluate, fit
from rl_probes.train import evaluate_agents, train_agent

COMMANDS: dict[str, commands.Command | commands.Group] = {
    "ppo": train_agent,
    "evaluate": evaluate_agents,
    "benchmark": benchmark,
    "collect": collect,
    "reward": {"fit": fit, "evaluate": evaluate, "generate": generate, "benchmark": reward_benchmark},
    "quickstart": quickstart,
}


def main(arguments: Sequence[str] | None = None) -> Any:
    return commands.run("rl-probes", __doc__, COMMANDS, sys.argv[1:] if arguments is None else arguments)


def script() -> None:
    commands.exit_with_sentence(main)


if __name__ == "__main__":
    script()

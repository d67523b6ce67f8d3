"""`rl-probes <command> --config file.yaml`: every command is a function, its signature is the schema of its config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser

from ocl.files import write_text
from rl_probes.train import evaluate_agents, train_agent

COMMANDS: dict[str, Callable[..., Any]] = {
    "ppo": train_agent,
    "evaluate": evaluate_agents,
}


def parser_of(command: Callable[..., Any]) -> ArgumentParser:
    """Every parameter of `command` as an option; a world takes the run's seed."""
    parser = ArgumentParser(description=(command.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with any of the options below.")
    parameters = parser.add_function_arguments(command)
    if {"seed", "world"} <= set(parameters):
        parser.link_arguments("seed", "world.init_args.seed")
    return parser


def main(arguments: Sequence[str] | None = None) -> Any:
    """A command with a `folder` leaves its resolved config.yaml there."""
    parser = ArgumentParser(prog="rl-probes", description=__doc__)
    commands = parser.add_subcommands(dest="command")
    parsers = {name: parser_of(command) for name, command in COMMANDS.items()}
    for name, command_parser in parsers.items():
        commands.add_subcommand(name, command_parser, help=command_parser.description)
    parsed = parser.parse_args(arguments)
    built = parser.instantiate_classes(parsed)
    name = parsed.command
    options = built[name].as_dict()
    options.pop("config", None)
    folder = options.get("folder")
    text = parsers[name].dump(parsed[name], skip_none=False)
    # Before the run, so that a killed one can be read; after it, because a refused one must not replace the config.
    if folder is not None and not (Path(folder) / "config.yaml").exists():
        write_text(Path(folder) / "config.yaml", text)
    result = COMMANDS[name](**options)
    if folder is not None:
        write_text(Path(folder) / "config.yaml", text)
    return result


if __name__ == "__main__":
    main()

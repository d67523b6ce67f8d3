"""Command lines made of functions: a function's signature is the schema of its options and of its config file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser

from ocl.files import write_text

Command = Callable[..., Any]


def run(program: str, description: str | None, commands: Mapping[str, Command], arguments: Sequence[str]) -> Any:
    """Parse `<command> [--config file.yaml] [options]`, build what class paths name, and call the function.

    A command with a `folder` leaves its resolved config.yaml there.
    """
    parser = ArgumentParser(prog=program, description=description)
    subcommands = parser.add_subcommands(dest="command")
    parsers = {name: parser_of(command) for name, command in commands.items()}
    for name, command_parser in parsers.items():
        subcommands.add_subcommand(name, command_parser, help=command_parser.description)
    parsed = parser.parse_args(list(arguments))
    name = parsed.command
    options = parser.instantiate_classes(parsed)[name].as_dict()
    options.pop("config", None)
    folder = options.get("folder")
    text = parsers[name].dump(parsed[name], skip_none=False)
    # Before the run, so that a killed one can be read; after it, because a refused one must not replace the config.
    if folder is not None and not (Path(folder) / "config.yaml").exists():
        write_text(Path(folder) / "config.yaml", text)
    result = commands[name](**options)
    if folder is not None:
        write_text(Path(folder) / "config.yaml", text)
    return result


def exit_with_sentence(main: Callable[[], Any]) -> None:
    """Run a program; bad input ends it with one sentence and status 2. OCL_TRACEBACK=1 shows where it was noticed."""
    try:
        main()
    except (ValueError, TypeError, FileNotFoundError, ImportError, IndexError) as error:
        if os.environ.get("OCL_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def parser_of(command: Command) -> ArgumentParser:
    """Every parameter of `command` as an option; a world takes the run's seed."""
    parser = ArgumentParser(description=(command.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with any of the options below.")
    parameters = parser.add_function_arguments(command)
    if {"seed", "world"} <= set(parameters):
        parser.link_arguments("seed", "world.init_args.seed")
    return parser

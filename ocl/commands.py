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
Group = Mapping[str, Command]
"""Commands that share their first word."""


def run(
    program: str, description: str | None, commands: Mapping[str, Command | Group], arguments: Sequence[str]
) -> Any:
    """Parse `<command> [--config file.yaml] [options]`, build what class paths name, and call the function; the second
    word chooses within a group.

    A command with a `folder` leaves its resolved config.yaml there.
    """
    group = commands.get(arguments[0]) if arguments else None
    if isinstance(group, Mapping):
        return run(f"{program} {arguments[0]}", None, group, arguments[1:])
    parser = ArgumentParser(prog=program, description=description)
    subcommands = parser.add_subcommands(dest="command")
    parsers = {
        name: _parser_of_group(one) if isinstance(one, Mapping) else parser_of(one) for name, one in commands.items()
    }
    for name, command_parser in parsers.items():
        subcommands.add_subcommand(name, command_parser, help=command_parser.description)
    parsed = parser.parse_args(list(arguments))
    name = parsed.command
    try:
        options = parser.instantiate_classes(parsed)[name].as_dict()
    except ValueError as error:
        raise _reason(error) from None
    options.pop("config", None)
    if isinstance(device := options.get("device"), str):
        check_device(device)
    folder = options.get("folder")
    text = parsers[name].dump(parsed[name], skip_none=False)
    # Before the run, so that a killed one can be read; after it, because a refused one must not replace the config.
    if folder is not None and not (Path(folder) / "config.yaml").exists():
        write_text(Path(folder) / "config.yaml", text)
    command = commands[name]
    assert not isinstance(command, Mapping)
    result = command(**options)
    if folder is not None:
        write_text(Path(folder) / "config.yaml", text)
    return result


def check_device(name: str) -> None:
    """Raises ValueError where tensors cannot be put on the device of this name, before anything is computed for it."""
    import torch  # here, since the help of commands needs none

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not to be had on this machine; try cpu.") from error


def _reason(error: BaseException) -> BaseException:
    """What a class said when it was built, without the list of all other types that the option could have had."""
    reason = error
    while reason.__cause__ is not None and "any of the Union subtypes" in str(reason):
        reason = reason.__cause__
    return error if str(reason).startswith("Expected a") else reason  # where None comes first, it only says "not None"


def exit_with_sentence(main: Callable[[], Any]) -> None:
    """Run a program; bad input ends it with one sentence and status 2. OCL_TRACEBACK=1 shows where it was noticed."""
    try:
        main()
    except (ValueError, TypeError, OSError, ImportError, IndexError) as error:
        if os.environ.get("OCL_TRACEBACK"):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _sentence(error: Exception) -> str:
    """What was wrong; of the system's own errors the place and the reason, without their number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}."
    return str(error)


def _parser_of_group(group: Group) -> ArgumentParser:
    """Only for the help: `run` never hands a group's words to it."""
    return ArgumentParser(description=" | ".join(group))


def parser_of(command: Command) -> ArgumentParser:
    """Every parameter of `command` as an option; a world takes the run's seed."""
    parser = ArgumentParser(description=(command.__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with any of the options below.")
    parameters = parser.add_function_arguments(command)
    if {"seed", "world"} <= set(parameters):
        parser.link_arguments("seed", "world.init_args.seed")
    return parser

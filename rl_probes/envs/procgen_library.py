"""EnvPool's Procgen and the Qt that it draws with: loaded and named, or one sentence that says what to install."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

INSTALL = (
    "install the Debian packages libqt5gui5 and libqt5core5a, or the PyPI package PyQt5-Qt5 together with the Debian "
    "packages libgl1 and libglib2.0-0"
)


def load() -> Any:
    """The module `envpool`, able to make Procgen environments.

    EnvPool wheels before 1.2.7 need a Qt 5 on the system. The package PyQt5-Qt5 carries one where the dynamic linker
    does not look, so its libraries are loaded first; a wheel that bundles its own Qt does not mind.

    Raises:
        ImportError: EnvPool, Qt or a library that Qt needs is missing; the sentence says what to install.
    """
    problem = _preload_qt()  # before EnvPool, which looks for it when it is imported
    try:
        envpool = importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        raise ImportError('Procgen needs EnvPool; install it with: pip install "ocl-research[procgen]".') from error
    try:
        procgen = importlib.import_module("envpool.procgen")
        if "ProcgenEnvSpec" not in vars(procgen):  # somebody imported EnvPool before us, and it looked in vain
            procgen = importlib.reload(procgen)
        procgen.ProcgenEnvSpec  # noqa: B018 (raises where Qt was not found)
    except ImportError as error:
        raise ImportError(f"Procgen needs Qt 5 ({problem or error.__cause__ or error}); {INSTALL}.") from error
    return envpool


def build() -> dict[str, str]:
    """What decides the pixels of Procgen: {"envpool": version, "qt": major version}. For manifests and cards.

    EnvPool 1.2.7, which bundles Qt 6, draws every game slightly differently from 1.2.5 with Qt 5.
    """
    distribution = metadata.distribution("envpool")
    bundled = (re.search(r"Qt(\d)Core", str(file)) for file in distribution.files or ())
    return {"envpool": distribution.version, "qt": next((match[1] for match in bundled if match), "5")}


def check_build(recorded: Mapping[str, str], what: str) -> None:
    """Warn where `what` (a checkpoint, a recording) was made with another build than the present one."""
    present = build()
    if dict(recorded) != present:
        warnings.warn(
            f"{what} was made with {_named(recorded)}, but this is {_named(present)}: the two draw Procgen "
            f"differently, so features and results may differ.",
            stacklevel=2,
        )


def _named(versions: Mapping[str, str]) -> str:
    return f"EnvPool {versions.get('envpool', 'of unknown version')} with Qt {versions.get('qt', 'of unknown version')}"


def _preload_qt() -> str | None:
    """Load Qt 5 out of PyQt5-Qt5, if installed; returns what went wrong."""
    try:
        package = importlib.util.find_spec("PyQt5")  # a namespace package: it has locations, but no file
    except (ImportError, ValueError):
        package = None
    locations = [] if package is None else list(package.submodule_search_locations or ())
    for location in locations:
        folder = Path(location) / "Qt5" / "lib"
        for name in ("libQt5Core.so.5", "libQt5Gui.so.5"):  # in the order in which they need each other
            if (folder / name).is_file():
                try:
                    ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
                except OSError as error:
                    return str(error)
    return None

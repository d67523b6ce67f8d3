"""What a run was: written beside its results so that a number can be traced to code, seed and versions."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ocl.files import write_json

PACKAGES = (
    "ocl-research",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "timm",
    "numpy",
    "scipy",
    "stable-baselines3",
    "gymnasium",
    "envpool",
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The source commit, with "-dirty" where tracked files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed.stdout.strip() else "")


def write_manifest(folder: str | Path, *, config: Any, seed: int | None, **extra: Any) -> Path:
    """Write `manifest.json` into `folder`: config, seed, versions, commit, command and whatever else is given."""
    content = {
        "config": config,
        "seed": seed,
        "command": sys.argv,
        "commit": commit(),
        "versions": versions(),
        **extra,
    }
    return write_json(Path(folder) / "manifest.json", content)

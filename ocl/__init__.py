"""Learn, freeze and probe object-centric representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocl.representations import ObjectEncoder

__version__ = "0.1.0"


def load(folder: str | Path, *, trust: bool = False) -> ObjectEncoder:
    """The frozen `ObjectEncoder` in a checkpoint folder; see `ocl.checkpoints.load_encoder`."""
    from ocl.checkpoints import load_encoder  # here, so that `import ocl` stays instant

    return load_encoder(folder, trust=trust)

"""Learn, freeze and probe object-centric representations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocl.representations import ObjectEncoder

__version__ = "0.1.0"

PRETRAINED = Path(__file__).parent / "pretrained"
"""The folder of the checkpoints that travel with the package."""


def checkpoint_at(folder: str | Path) -> Path:
    """The folder itself, or where there is none the one of this name that travels with the package."""
    packaged = PRETRAINED / folder
    return packaged if not Path(folder).exists() and packaged.is_dir() else Path(folder)


def load(
    folder: str | Path, *, trust: bool = False, decoder_masks: bool = False, num_slots: int | None = None
) -> ObjectEncoder:
    """The frozen `ObjectEncoder` in a checkpoint folder, or one that travels with the package: `ocl.load("sprites")`.

    See `ocl.checkpoints.load_encoder` for the arguments and what is refused.
    """
    from ocl.checkpoints import load_encoder  # here, so that `import ocl` stays instant

    return load_encoder(checkpoint_at(folder), trust=trust, decoder_masks=decoder_masks, num_slots=num_slots)

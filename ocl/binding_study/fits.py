"""Probes of all layers of one model, fitted once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ocl.binding.fitting import fit
from ocl.binding.patches import Patches
from ocl.binding.probes import PairProbe
from ocl.binding.saved import read_probe, save_probe
from ocl.binding_study.settings import Fitting, ProbeMaker
from ocl.describe import describe_part

SETTINGS = "settings"  # an entry of the header


@dataclass(frozen=True)
class Fitted:
    """A fitted probe of L places and the least validation loss (L) of each."""

    probe: PairProbe
    losses: Tensor

    @property
    def best(self) -> int:
        """The place with the least loss on held-out training images: chosen without a look at the test images."""
        return int(self.losses.argmin())


def fitted(
    make: ProbeMaker,
    patches: Patches,
    fitting: Fitting,
    path: Path,
    provenance: Mapping[str, Any],
    seed: int = 0,
) -> Fitted:
    """Fit a probe on patches of training images, or read what an earlier call with the same arguments left.

    Args:
        path: the file that holds the probe.
        provenance: where the tokens come from, in JSON's types.
        seed: of the probe's start, the split by image and the order of images.

    Raises:
        ValueError: `path` holds another fit or is damaged; too few images to hold one out.
    """
    images = len(patches)
    held = round(fitting.held_out * images)
    if not 1 <= held < images:
        raise ValueError(f"held_out {fitting.held_out} of {images} training images leaves none on one side; give more.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = make(patches.tokens.shape[-1], layers=patches.tokens.shape[0])
    asked = {"probe": describe_part(probe), "fitting": asdict(fitting), "tokens": provenance}
    settings = hashlib.sha256(json.dumps([asked, seed], sort_keys=True).encode()).hexdigest()
    probe = probe.to(patches.tokens.device)
    if path.is_file():
        return _read(probe, path, settings)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).to(patches.tokens.device)
    options = {name: value for name, value in asdict(fitting).items() if name != "held_out"}
    record = fit(probe, patches.take(order[held:]), patches.take(order[:held]), **options, seed=seed)
    assert record.validation is not None
    found = Fitted(probe.eval().requires_grad_(False), record.validation.amin(dim=0))
    save_probe(found.probe, path, found.losses, {SETTINGS: settings})
    return found


def _read(probe: PairProbe, path: Path, settings: str) -> Fitted:
    header, tensors, losses = read_probe(probe, path)
    if header.get(SETTINGS) != settings or losses is None:
        raise ValueError(f"{path} was fitted with other settings or tokens; name another folder, or delete it.")
    probe.load_state_dict(tensors)
    return Fitted(probe.eval().requires_grad_(False), losses)

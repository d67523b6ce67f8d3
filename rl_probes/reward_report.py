"""From a recording to a fitted progress head, its figures beside the controls, and the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from ocl.files import write_json
from ocl.manifest import write_manifest
from rl_probes.evaluate_rewards import evaluate_progress, table
from rl_probes.fit_rewards import deep_set, fit_progress, flattened
from rl_probes.recording import Recording
from rl_probes.rewards.checkpoint import save_head


def reward(
    recording: Path, folder: Path, *, epochs: int = 20, gamma: float = 0.99, seed: int = 0
) -> list[dict[str, Any]]:
    """Fit a deep-set progress head on a recorded store and measure it on held-out episodes.

    Beside it stand a flattened MLP fitted on the same slots, a constant, noise, the clock and the truth itself. Writes
    the head (`head.safetensors`, `head.json`), `results.json` and `manifest.json` to `folder` and returns the rows.

    Args:
        recording: the folder that `rl_probes.collect` wrote.
        folder: for the results.
        epochs: passes over the training frames.
        gamma: discount of the step-level difference gamma * p(s') - p(s).
        seed: of the split, the initial weights and the order of frames.
    """
    frames = Recording.load(recording)
    train, val, test = frames.split(seed=seed)
    head = fit_progress(train, val, deep_set, epochs=epochs, seed=seed)
    control = fit_progress(train, val, flattened, epochs=epochs, seed=seed)
    rows = evaluate_progress({"deep_set": head, "flattened_mlp": control}, test, gamma=gamma, seed=seed)
    save_head(head, folder, seed=seed, epochs=epochs)
    write_json(Path(folder) / "results.json", rows)
    config = {"epochs": epochs, "gamma": gamma, "frames": len(frames), "encoder_fingerprint": frames.fingerprint}
    write_manifest(folder, config=config, seed=seed)
    Console().print(table(rows))
    return rows

"""`rl-probes reward fit | evaluate`: from a recording to a progress head, and from heads to figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from ocl.files import read_json, write_json
from ocl.manifest import write_manifest
from rl_probes.evaluate_rewards import evaluate_progress, table
from rl_probes.fit_rewards import deep_set, fit_progress
from rl_probes.labels import with_discounted_success
from rl_probes.recording import Recording
from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.slot_head import SlotHead


def fit(
    recording: Path,
    folder: Path,
    *,
    epochs: int = 20,
    gamma: float = 0.99,
    discount: float | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Fit a deep-set progress head on a recorded store and measure it on held-out episodes.

    Beside it stand a flattened and a pooled MLP fitted on the same episodes, a constant, noise, the clock and the truth
    itself. Writes the head (`head.safetensors`, `head.json`), `results.json` and `manifest.json` to `folder` and
    returns the rows.

    Args:
        recording: the folder that `rl-probes collect` wrote.
        folder: for the results.
        epochs: passes over the training frames.
        gamma: discount of the step-level difference gamma * p(s') - p(s).
        discount: Fit and measure by discount ** (steps to success) in the place of the true progress: the value of the
            recorded players, a potential for shaping (`rl_probes.labels.with_discounted_success`).
        seed: of the split, the initial weights and the order of frames.
    """
    frames = Recording.load(recording)
    if discount is not None:
        frames = with_discounted_success(frames, discount)
    train, val, test = frames.split(seed=seed)
    head = fit_progress(train, val, deep_set, epochs=epochs, seed=seed)
    rows = evaluate_progress({"deep_set": head}, test, gamma=gamma, seed=seed, train=train, control_epochs=epochs)
    save_head(head, folder, seed=seed, epochs=epochs, discount=discount)
    config = {"epochs": epochs, "gamma": gamma, "discount": discount, "frames": len(frames)}
    return _report(rows, folder, config | {"encoder_fingerprint": frames.fingerprint}, seed)


def evaluate(
    recording: Path, heads: dict[str, Path], folder: Path, gamma: float = 0.99, seed: int = 0
) -> list[dict[str, Any]]:
    """Measure saved heads on all episodes of a recorded store, beside controls.

    Args:
        recording: the folder that `rl-probes collect` wrote, of episodes that the heads were not fitted on.
        heads: By name, folders with a `head.json`; their encoder must be the recording's.
        folder: for the results.
        gamma: discount of the step-level difference gamma * p(s') - p(s).
        seed: of the random control and the bootstrap.
    """
    frames = Recording.load(recording)
    loaded = {name: load_any_head(where) for name, where in heads.items()}
    rows = evaluate_progress(loaded, frames, gamma=gamma, seed=seed, split="all")
    config = {"heads": {name: read_json(where / "head.json")["sha256"] for name, where in heads.items()}}
    return _report(rows, folder, config | {"gamma": gamma, "encoder_fingerprint": frames.fingerprint}, seed)


def load_any_head(folder: str | Path) -> SlotHead:
    """A saved head of whatever class it is, among the `SlotHead` that have been imported: a file names no code to run.

    Raises:
        FileNotFoundError: no head there.
        ValueError: a class that is not known here, or files that were altered.
    """
    description = read_json(Path(folder) / "head.json")
    name = description.get("class") if isinstance(description, dict) else None
    known: dict[str, type[SlotHead]] = {kind.__name__: kind for kind in _kinds(SlotHead)}
    if name not in known:
        raise ValueError(f"{folder} holds a head of the class {name!r}, which is not imported; import its module.")
    return load_head(known[name], folder)


def _kinds(base: Any) -> Iterator[type[SlotHead]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


def _report(rows: list[dict[str, Any]], folder: Path, config: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    write_json(Path(folder) / "results.json", rows)
    write_manifest(folder, config=config, seed=seed)
    Console().print(table(rows))
    return rows

"""Recordings as data sets of Minari, which other libraries read, with the slots beside them.

    <root>/<dataset id>/data    Minari's own files: observations (T+1 ...), actions, rewards, terminations, truncations,
                                and progress and success (T+1) as infos
    <root>/<dataset id>/slots   a store with "vectors" and "valid" of every frame, keyed by "episode" (Minari's id) and
                                "step", with the encoder's fingerprint

With MINARI_DATASETS_PATH=<root>, `minari.load_dataset(<dataset id>)` finds it. Needs the extra `minari`.
"""

from __future__ import annotations

import importlib
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ocl.files import read_json
from ocl.store import FeatureStore, ShardWriter
from rl_probes.recording import Recording

DATA, SLOTS = "data", "slots"


def write_minari(
    recording: Recording,
    root: str | Path,
    dataset_id: str,
    num_actions: int,
    observations: NDArray[Any] | None = None,
    description: str = "",
) -> Path:
    """Write whole episodes as the Minari data set `dataset_id` ("family/name-v0") and return its folder.

    observations: what other libraries will see of each frame (n ...), images (n 3 H W) uint8 among them; the slots
        with their validity as a last channel, (n K D+1) float32, where None. Kept without loss.

    An episode of a single frame has no step in Minari's format and is left out.

    Raises:
        ImportError: Minari is missing.
        ValueError: a data set of that name is there already, an episode without its first frame or with a gap, an
            action that does not exist, or observations of another number of frames.
    """
    storage = _minari("minari.dataset.minari_storage").MinariStorage
    buffer = _minari("minari.data_collector").EpisodeBuffer
    folder = Path(root) / dataset_id
    if (folder / DATA).exists():
        raise ValueError(f"{folder} already holds a data set; delete it or choose another id.")
    episodes = _whole_episodes(recording)
    taken = recording.action[np.concatenate([frames[1:] for frames in episodes])]
    if taken.min() < 0 or taken.max() >= num_actions:
        raise ValueError(
            f"steps need actions in 0..{num_actions - 1}, got {taken.min()} to {taken.max()}; leave out rewound "
            "episodes."
        )
    seen, space = _observations(recording, observations)
    _write_slots(recording, episodes, folder / SLOTS)
    temporary = folder / f".tmp-{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        store = storage.new(temporary, space, spaces.Discrete(num_actions), jpeg_encoding=False)
        about = {"dataset_id": dataset_id, "minari_version": _minari("minari").__version__}
        store.update_metadata(about | {"description": description, "encoder_fingerprint": recording.fingerprint})
        store.update_episodes(_episode(buffer, recording, seen, frames, id) for id, frames in enumerate(episodes))
        temporary.rename(folder / DATA)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_minari(root: str | Path, dataset_id: str, expect_fingerprint: str | None = None) -> Recording:
    """The recording that `write_minari` wrote, episodes named by Minari's ids.

    Raises:
        ImportError: Minari is missing.
        FileNotFoundError: no such data set, or none with slots beside it.
        ValueError: slots that were altered, come from another encoder than `expect_fingerprint`, or belong to other
            episodes than the data set holds.
    """
    folder = Path(root) / dataset_id
    read_json(folder / DATA / "metadata.json")  # says in a sentence what is missing
    data = _minari("minari").MinariDataset(folder / DATA)
    store = FeatureStore(folder / SLOTS, expect_fingerprint=expect_fingerprint)
    slots = store.read_all()
    parts = []
    for episode in data.iterate_episodes():
        steps = len(episode.rewards)
        parts.append(
            {
                "action": np.concatenate([[-1], episode.actions]).astype(np.int32),
                "reward": np.concatenate([[0.0], episode.rewards]).astype(np.float32),
                "progress": np.asarray(episode.infos["progress"], np.float32),
                "terminated": np.concatenate([[False], episode.terminations]),
                "truncated": np.concatenate([[False], episode.truncations]),
                "success": np.asarray(episode.infos["success"], np.bool_),
                "episode": np.full(steps + 1, episode.id, np.int64),
                "step": np.arange(steps + 1, dtype=np.int32),
            }
        )
    fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    if not fields or any(not np.array_equal(fields[name], slots[name]) for name in ("episode", "step")):
        raise ValueError(f"the slots beside {folder} are of other episodes; write the data set again.")
    fields |= {"vectors": slots["vectors"], "valid": slots["valid"]}
    return Recording(**fields, fingerprint=store.provenance.get("fingerprint"))


def _minari(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError("data sets of Minari need its package: pip install 'ocl-research[minari]'.") from error


def _whole_episodes(recording: Recording) -> list[NDArray[np.intp]]:
    """The frames of every episode of at least two, in order."""
    cuts = np.flatnonzero(recording.episode[1:] != recording.episode[:-1]) + 1
    found = np.split(np.arange(len(recording)), cuts)
    for frames in found:
        if not np.array_equal(recording.step[frames], np.arange(len(frames))):
            raise ValueError(f"episode {recording.episode[frames[0]]} is not whole; keep its frames from the first on.")
    kept = [frames for frames in found if len(frames) > 1]
    if not kept:
        raise ValueError("the recording holds no episode with a step.")
    return kept


def _observations(recording: Recording, given: NDArray[Any] | None) -> tuple[NDArray[Any], spaces.Box]:
    """What each frame shows (n ...), images with the channels last as Minari expects, and the space it lies in."""
    if given is None:
        packed = np.concatenate([recording.vectors, recording.valid[..., None]], -1).astype(np.float32)
        return packed, spaces.Box(-np.inf, np.inf, packed.shape[1:], np.float32)
    if len(given) != len(recording):
        raise ValueError(f"every frame needs an observation ({len(recording)}), got {len(given)}.")
    if given.dtype == np.uint8:
        images = given.transpose(0, 2, 3, 1) if given.ndim == 4 and given.shape[1] == 3 else given
        return images, spaces.Box(0, 255, images.shape[1:], np.uint8)
    return given.astype(np.float32), spaces.Box(-np.inf, np.inf, given.shape[1:], np.float32)


def _episode(buffer: Any, recording: Recording, seen: NDArray[Any], frames: NDArray[np.intp], id: int) -> Any:
    after = frames[1:]
    return buffer(
        id=id,
        observations=seen[frames],
        actions=recording.action[after].astype(np.int64),
        rewards=recording.reward[after],
        terminations=recording.terminated[after],
        truncations=recording.truncated[after],
        infos={"progress": recording.progress[frames], "success": recording.success[frames]},
    )


def _write_slots(recording: Recording, episodes: list[NDArray[np.intp]], folder: Path) -> None:
    frames = np.concatenate(episodes)
    arrays = {
        "vectors": recording.vectors[frames],
        "valid": recording.valid[frames],
        "episode": np.repeat(np.arange(len(episodes)), [len(one) for one in episodes]).astype(np.int64),
        "step": recording.step[frames],
    }
    writer = ShardWriter(folder, {"fingerprint": recording.fingerprint}, len(frames), len(frames))
    writer.write(0, arrays)
    writer.finalize()

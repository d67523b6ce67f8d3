"""The benchmark's episodes on disk: generated from a seed, versioned, every byte checked on reading.

<folder>/benchmark.json          version, settings, and the SHA-256 of every index
<folder>/<task>/frames, goals    stores: states as lists of objects, so that any encoder can be run on them
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from ocl.data.sprites import SpriteRenderer, flip_y
from ocl.files import read_json, write_json
from ocl.manifest import write_manifest
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots
from ocl.shards import sha256_of
from ocl.store import INDEX, FeatureStore, ShardWriter
from rl_probes.envs.named import task_of
from rl_probes.recording import Goals, Recording
from rl_probes.reward_benchmark.play import KINDS, OBJECTS, Arrays, clip, goal_of, play

VERSION = "1"
"""Goes up whenever the same settings would give other episodes."""
SETTINGS = "benchmark.json"
SPLITS = ("train", "val", "test")
FRAMES, GOALS = "frames", "goals"


def generate(
    folder: str | Path, tasks: tuple[str, ...], train_starts: int = 420, test_starts: int = 40, seed: int = 0
) -> Path:
    """Write good and bad episodes of every task; what is there already is checked.

    For training every start is played in one way, since what a head must not do is to learn few scenes by heart; those
    for testing are all played in every way, so that a scene tells nothing of its outcome. A sixth as many starts as for
    training are for validation. Starts that the expert cannot solve, and so have no goal, are left out.

    Args:
        folder: Where to.
        tasks: Names of `rl_probes.envs.named.task_of`.
        train_starts: Of each task.
        test_starts: Of each task.
        seed: Of starts and players.

    Raises:
        ValueError: fewer starts than ways to play, a task given twice, or a folder with a benchmark of other settings.
    """
    folder = Path(folder)
    starts = {"train": train_starts, "val": -(-train_starts // 6), "test": test_starts}
    settings = {"version": VERSION, "tasks": list(tasks), "starts": starts, "seed": seed}
    if train_starts < 6 * len(KINDS) or test_starts < 1 or len(set(tasks)) < len(tasks) or not tasks:
        raise ValueError(
            f"a benchmark needs different tasks, at least {6 * len(KINDS)} starts for training and 1 for testing, got "
            f"{tasks}, {train_starts} and {test_starts}."
        )
    if (folder / SETTINGS).is_file() and read_json(folder / SETTINGS)["settings"] != settings:
        raise ValueError(f"{folder} already holds a benchmark of other settings; write to another folder.")
    if (folder / SETTINGS).is_file():
        for name in tasks:
            load(folder, name)
        return folder
    digests = {}
    for name in track(tasks, "playing"):
        frames, goals = _episodes(name, starts, seed)
        own = settings | {"task": name}
        for part, arrays in ((FRAMES, frames), (GOALS, goals)):
            count = len(next(iter(arrays.values())))
            writer = ShardWriter(folder / slug(name) / part, own, count, count)
            for shard in writer.missing():
                writer.write(shard, arrays)
            digests[f"{name}/{part}"] = sha256_of(writer.finalize())
    write_json(folder / SETTINGS, {"settings": settings, "sha256": digests})
    write_manifest(folder, config=settings, seed=seed)
    return folder


def slug(task: str) -> str:
    """A task's name as a folder's."""
    return task.replace(",", "").replace(" ", "_")


@dataclass(frozen=True)
class StoredTask:
    """Episodes of one task: frames (n ...) as in `play`, with "episode", "kind" and "split"; goals by start (S ...).

    digest: of both, 64 hex digits.
    """

    name: str
    frames: Arrays
    goals: Arrays
    digest: str

    def split(self, name: str) -> StoredTask:
        """The episodes of "train", "val" or "test"."""
        chosen = self.frames["split"] == SPLITS.index(name)
        return replace(self, frames={key: value[chosen] for key, value in self.frames.items()})

    def observe(self, frames: NDArray[Any], image_size: int) -> Batch:
        """Images, segmentation and objects of these frames."""
        return _batch({name: self.frames[name][frames] for name in OBJECTS}, image_size)

    def encode(self, encoder: ObjectEncoder, image_size: int = 64, batch_size: int = 256) -> tuple[Recording, Goals]:
        """All frames as an encoder's slots, with the goal of each frame."""
        count = len(self.frames["step"])
        batches = (np.arange(count)[start : start + batch_size] for start in range(0, count, batch_size))
        found = [_slots(encoder(self.observe(frames, image_size))) for frames in batches]
        names = ("action", "reward", "progress", "terminated", "truncated", "success", "step")
        recording = Recording(
            vectors=np.concatenate([vectors for vectors, _ in found]),
            valid=np.concatenate([valid for _, valid in found]),
            episode=self.frames["episode"].astype(np.int64),
            fingerprint=encoder.fingerprint,
            **{name: self.frames[name] for name in names},
        )
        goals = _batch({name: self.goals[name] for name in OBJECTS}, image_size)
        slots = encoder(goals)
        vectors, valid = _slots(slots)
        weight = _goal_weight(slots, goals, torch.from_numpy(self.goals["weight"]), encoder)
        return recording, Goals(vectors, valid, weight).take(self.frames["start"])


def load(folder: str | Path, task: str) -> StoredTask:
    """The episodes of one task.

    Raises:
        FileNotFoundError: no benchmark there.
        ValueError: of another version, without that task, or altered in any byte.
    """
    folder = Path(folder)
    content = read_json(folder / SETTINGS)
    try:
        version, tasks = content["settings"]["version"], content["settings"]["tasks"]
        digests = {part: content["sha256"][f"{task}/{part}"] for part in (FRAMES, GOALS) if task in tasks}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / SETTINGS} does not describe a benchmark of rewards ({error!r}).") from error
    if version != VERSION:
        raise ValueError(f"{folder} holds version {version} of the benchmark, this is version {VERSION}; generate it.")
    if not digests:
        raise ValueError(f"{folder} has no task {task!r}; it has {', '.join(tasks)}.")
    parts = {}
    for part, digest in digests.items():
        where = folder / slug(task) / part
        store = FeatureStore(where)
        if sha256_of(where / INDEX) != digest:
            raise ValueError(
                f"{where / INDEX} was altered (its checksum differs from {SETTINGS}); generate it elsewhere."
            )
        parts[part] = store.read_all()
    return StoredTask(task, parts[FRAMES], parts[GOALS], "".join(digest[:32] for digest in digests.values()))


def _episodes(name: str, starts: dict[str, int], seed: int) -> tuple[Arrays, Arrays]:
    """Frames of all episodes of a task, and the goals of its starts."""
    task = task_of(name)
    generator = np.random.default_rng([seed, *name.encode()])
    kinds = [kind for kind in KINDS if kind.name != "wrong object" or task.num_objects > 1]
    kept: list[Arrays] = []
    goals: list[Arrays] = []
    for split, wanted in starts.items():
        seeds = generator.integers(2**62, size=wanted)
        solved = {int(one["start"][0]): one for one in play(task, seeds, KINDS[0], generator)}
        if len(solved) < wanted / 2:
            raise ValueError(f"the expert solves {len(solved)} of {wanted} starts of {name}; there are too few goals.")
        seeds, before = seeds[sorted(solved)], len(goals)
        goals += [goal_of(task, solved[start]) for start in sorted(solved)]
        for turn, kind in enumerate(kinds):
            chosen = np.arange(len(seeds)) if split == "test" else np.arange(turn, len(seeds), len(kinds))
            for episode in play(task, seeds[chosen], kind, generator):
                shown = clip(episode, generator) if kind.name == "clipped expert" else episode
                start = before + chosen[episode["start"][0]]
                about = {"start": start, "kind": KINDS.index(kind), "split": SPLITS.index(split), "episode": len(kept)}
                length = len(shown["step"])
                kept.append(shown | {key: np.full(length, value, np.int32) for key, value in about.items()})
    return (
        {key: np.concatenate([episode[key] for episode in kept]) for key in kept[0]},
        {key: np.stack([goal[key] for goal in goals]) for key in goals[0]},
    )


def _batch(objects: Arrays, image_size: int) -> Batch:
    position = flip_y(objects["position"].astype(np.float64))
    names = ("shape", "color", "scale", "visible")
    images, segmentation = SpriteRenderer(image_size).render(position, *(objects[name] for name in names))
    fields = {name: torch.from_numpy(objects[name]) for name in OBJECTS}
    return Batch(torch.from_numpy(images), torch.from_numpy(segmentation.astype(np.int64)), fields)


def _slots(slots: Slots) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    vectors = slots.vectors.masked_fill(~slots.valid[..., None], 0.0).cpu().numpy().astype(np.float16)
    return vectors, slots.valid.cpu().numpy()


def _goal_weight(slots: Slots, batch: Batch, weight: torch.Tensor, encoder: ObjectEncoder) -> NDArray[np.float32]:
    """(S K) from the weights (S M) of the objects: those of an encoder that lists objects are its slots', of one with
    masks go to the slot that covers most of the object; of any other all slots weigh alike."""
    if "objects" in encoder.requires and slots.vectors.shape[1] == weight.shape[1]:
        return np.asarray(weight.numpy(), np.float32)
    if slots.masks is None or batch.segmentation is None:
        return slots.valid.float().cpu().numpy()
    size = batch.segmentation.shape[-2:]
    masks = torch.nn.functional.interpolate(slots.masks.float().cpu(), size, mode="bilinear")  # (S K H W)
    masks = masks * slots.valid[..., None, None].cpu()
    columns = torch.arange(1, weight.shape[1] + 1)
    objects = (batch.segmentation[:, None] == columns[:, None, None]).float()  # (S M H W)
    cover = torch.einsum("skhw,smhw->smk", masks, objects)
    best = torch.nn.functional.one_hot(cover.argmax(2), masks.shape[1])  # (S M K)
    found: torch.Tensor = (best * weight[..., None]).sum(1)
    return np.asarray(found.numpy(), np.float32)

"""Play episodes, encode what is seen, and store it frame by frame for probes and reward predictors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ocl.manifest import write_manifest
from ocl.representations import ObjectEncoder
from ocl.store import ShardWriter
from rl_probes.envs.world import Outcome, World
from rl_probes.observation import Observer, Standardisation
from rl_probes.recording import Recording

Expert = Callable[[Any], Any]  # of arrays, a type that command lines cannot build
"""world -> (B,) int64, what somebody who knows the way does, such as `rl_probes.envs.sprite_world.scripted_actions`."""


@runtime_checkable
class KnowsProgress(Protocol):
    """A world that can say how far it is before the first step; of other worlds first frames have progress NaN."""

    def progress(self) -> NDArray[np.float32]: ...


def collect(
    world: World,
    encoder: ObjectEncoder,
    folder: str | Path,
    *,
    task: str,
    frames: int,
    expert: Expert | None = None,
    epsilon: tuple[float, float] = (0.0, 0.85),
    length: int = 512,
    images: bool = False,
    seed: int = 0,
) -> Recording:
    """Write at least `frames` frames to `folder` as a store with the fields of `Recording`, and read them back.

    A shard holds `length` consecutive frames of each of the world's B environments, from episodes that begin with it;
    the last of each is cut. It is a function of (seed, shard) alone: finished shards are kept when the call is
    repeated, and an interrupted call continues with the first that is missing.

    Args:
        world: the environments, B of them; left in the middle of their last episodes.
        encoder: what turns frames into slots.
        folder: of the store.
        task: names the world in the provenance; a folder never mixes two names.
        frames: how many at least; whole shards are written.
        expert: acts with probability 1 - epsilon, a random action else, every episode with an epsilon drawn uniformly
            from the given range. Without an expert all actions are random.
        epsilon: (0, 0) is the expert alone. With the default, quick and slow episodes of Object Goal balance so that
            time tells nothing about progress (its distance to progress is 0.70 over five seeds, chance 0.707).
        length: frames per environment and shard.
        images: also store "images" (3 H W) uint8.
        seed: of episodes and actions.

    Raises:
        ValueError: the encoder needs what the world cannot show, frames or length below 1, a range outside [0, 1], or
            a folder that holds frames of another origin.
    """
    missing = encoder.requires - world.fields
    if missing:
        raise ValueError(f"{type(encoder).__name__} needs {sorted(missing)}, which {type(world).__name__} cannot show.")
    if frames < 1 or length < 1:
        raise ValueError(f"frames and length must be at least 1, got {frames} and {length}.")
    if not 0 <= epsilon[0] <= epsilon[1] <= 1:
        raise ValueError(f"epsilon must be a range within [0, 1], got {epsilon}.")
    policy = "random" if expert is None else f"{expert.__module__}.{expert.__qualname__}"
    provenance = {
        "fingerprint": encoder.fingerprint,
        "encoder": encoder.describe(),
        "task": task,
        "policy": policy,
        "epsilon": list(epsilon) if expert else None,
        "environments": world.num_envs,
        "length": length,
        "images": images,
        "seed": seed,
    }
    size = world.num_envs * length
    writer = ShardWriter(folder, provenance, -(-frames // size) * size, size)
    waiting = writer.missing()
    columns = (TextColumn("[bold]collecting frames"), BarColumn(bar_width=None), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=not Console().is_terminal) as bar:
        progress = bar.add_task("", total=writer.records, completed=writer.records - len(waiting) * size)
        for shard in waiting:
            stream = _Streams(world, encoder, expert, epsilon, length, images, (seed, shard))
            writer.write(shard, stream.record(lambda count: bar.advance(progress, count)))
    writer.finalize()
    write_manifest(folder, config=provenance, seed=seed)
    return Recording.load(folder)


class _Streams:
    """One shard in the making: B streams of `length` frames each."""

    def __init__(
        self,
        world: World,
        encoder: ObjectEncoder,
        expert: Expert | None,
        epsilon: tuple[float, float],
        length: int,
        images: bool,
        seed: tuple[int, int],
    ) -> None:
        self.world, self.expert = world, expert
        self.observer = Observer(encoder, Standardisation.identity(encoder.dim))
        self.range, self.length, self.seed = epsilon, length, seed[0]
        self.generator = np.random.default_rng(seed)
        self.fields = encoder.requires | ({"images"} if images else set())
        self.images = images
        count = world.num_envs
        self.origin = (seed[1] * count + np.arange(count)) * length  # the record with which each stream begins
        self.filled = np.zeros(count, np.int64)  # frames of each stream so far
        self.first = np.zeros(count, np.int64)  # the frame of its stream with which the running episode began
        self.epsilon = np.zeros(count)
        self.arrays: dict[str, NDArray[Any]] = {}

    def record(self, report: Callable[[int], None]) -> dict[str, NDArray[Any]]:
        """Play until every stream is full -> name -> (B * length ...), stream after stream."""
        everyone = np.arange(self.world.num_envs)
        self._begin(everyone)
        while (self.filled < self.length).any():
            before = self.filled.sum()
            outcome = self.world.step(self._actions())
            active = np.flatnonzero(self.filled < self.length)
            self._append(active, self._reached(outcome, active))
            self._begin(np.flatnonzero(outcome.terminated | outcome.truncated))
            report(int(self.filled.sum() - before))
        return {name: array.reshape(-1, *array.shape[2:]) for name, array in self.arrays.items()}

    def _actions(self) -> NDArray[np.int64]:
        count = self.world.num_envs
        random = self.generator.integers(self.world.num_actions, size=count)
        explores = self.generator.random(count) < self.epsilon
        self.acted = random if self.expert is None else np.where(explores, random, self.expert(self.world))
        return self.acted

    def _begin(self, indices: NDArray[np.int64]) -> None:
        """New episodes in `indices`; their first frames, where the stream has room."""
        if not len(indices):
            return
        self.first[indices] = self.filled[indices]
        self.epsilon[indices] = self.generator.uniform(*self.range, len(indices))
        names = self.origin[indices] + self.first[indices]
        seeds = [np.random.SeedSequence([self.seed, int(name)]).generate_state(1)[0] >> 1 for name in names]
        self.world.reset(indices, np.array(seeds, np.int64))
        room = indices[self.filled[indices] < self.length]
        if len(room):
            self._append(
                room,
                {
                    "action": np.full(len(room), -1, np.int32),
                    "reward": np.zeros(len(room), np.float32),
                    "progress": self._progress()[room],
                    "terminated": np.zeros(len(room), np.bool_),
                    "truncated": np.zeros(len(room), np.bool_),
                    "success": np.zeros(len(room), np.bool_),
                },
            )

    def _progress(self) -> NDArray[np.float32]:
        if isinstance(self.world, KnowsProgress):
            return self.world.progress().astype(np.float32)
        return np.full(self.world.num_envs, np.nan, np.float32)

    def _reached(self, outcome: Outcome, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        unknown = np.full(self.world.num_envs, np.nan, np.float32)
        return {
            "action": self.acted[indices].astype(np.int32),
            "reward": outcome.reward[indices].astype(np.float32),
            "progress": outcome.info.get("progress", unknown)[indices].astype(np.float32),
            "terminated": outcome.terminated[indices],
            "truncated": outcome.truncated[indices],
            "success": outcome.info.get("success", np.zeros_like(outcome.terminated))[indices].astype(np.bool_),
        }

    def _append(self, indices: NDArray[np.int64], reached: dict[str, NDArray[Any]]) -> None:
        """Add the current frame of each of `indices` (n) with how it was reached."""
        batch = self.world.observe(self.fields, indices)
        slots = self.observer.slots(batch)
        vectors = slots.vectors.cpu().numpy().astype(np.float16)
        valid = slots.valid.cpu().numpy()
        if not np.isfinite(vectors[valid]).all():
            raise ValueError(
                f"{type(self.observer.encoder).__name__} gave a valid slot that is not finite in half precision."
            )
        values = {
            "vectors": np.where(valid[..., None], vectors, np.float16(0)),
            "valid": valid,
            "episode": self.origin[indices] + self.first[indices],
            "step": (self.filled[indices] - self.first[indices]).astype(np.int32),
            **reached,
        }
        if self.images:
            values["images"] = batch.images.numpy()
        for name, value in values.items():
            if name not in self.arrays:
                shape = (self.world.num_envs, self.length, *value.shape[1:])
                self.arrays[name] = np.zeros(shape, value.dtype)
            self.arrays[name][indices, self.filled[indices]] = value
        self.filled[indices] += 1

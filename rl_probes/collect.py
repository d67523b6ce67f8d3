"""Play episodes and store what is seen, frame by frame: to pretrain encoders on, for probes and reward predictors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ocl.files import remove_leftovers
from ocl.manifest import write_manifest
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch
from ocl.store import INDEX, FeatureStore, ShardWriter
from rl_probes.controls import BlindEncoder
from rl_probes.envs.world import Outcome, World
from rl_probes.observation import Observer, Standardisation
from rl_probes.players import Player

MOST_OBJECTS = 127
"""In a stored segmentation, whose labels are int8."""


@runtime_checkable
class KnowsProgress(Protocol):
    """A world that can say how far it is before the first step; of other worlds first frames have progress NaN."""

    def progress(self) -> NDArray[np.float32]: ...


def collect(
    world: World,
    folder: Path,
    task: str,
    frames: int,
    encoder: ObjectEncoder | None = None,
    players: Sequence[Player] = (),
    epsilon: tuple[float, float] = (0.0, 0.85),
    length: int = 512,
    fields: tuple[str, ...] = (),
    seed: int = 0,
    worker: int = 0,
    workers: int = 1,
) -> FeatureStore | None:
    """Write at least `frames` frames of play to `folder`, with slots, pictures and true masks; run again to continue.

    The store has the fields of `rl_probes.recording.Recording` and those asked for, which
    `ocl.data.stored.StoredScenes` reads back. A shard holds `length` consecutive frames of each of the world's B
    environments, from episodes that begin with it; the last of each is cut. It is a function of (seed, shard) alone:
    killed at any moment and started again with the same arguments, the call goes on with the first that is missing and
    ends with the same bytes.

    Args:
        world: the environments, B of them; left in the middle of their last episodes.
        folder: of the store.
        task: names the world in the provenance; a folder never mixes two names.
        frames: how many at least; whole shards are written.
        encoder: what turns frames into slots; None stores an empty slot per frame, where frames alone are wanted.
        players: who acts; every episode is played by one of them, drawn in proportion to their shares. Without any,
            all actions are random.
        epsilon: a player acts with probability 1 - epsilon, a random action is taken else, every episode with an
            epsilon drawn uniformly from this range; (0, 0) is the players alone. With the default, quick and slow
            episodes of Object Goal balance so that time tells nothing about progress (its distance to progress is 0.70
            over five seeds, chance 0.707).
        length: frames per environment and shard.
        fields: what else of a frame is stored: "images" (3 H W) uint8, "segmentation" (H W) int8 (as in
            `ocl.shapes.Batch`, exact), "objects" (their true attributes, each under its own name).
        seed: of episodes and actions.
        worker: which of `workers` processes this is, each started by hand or by a job array.
        workers: how many such processes there are; each writes every `workers`-th shard.

    Returns:
        The finished store, None while shards of other workers are missing.

    Raises:
        ValueError: the encoder, a player or `fields` ask for what the world cannot show, a player that knows another
            world, frames or length below 1, a range outside [0, 1], shares that are not positive, or a folder that
            holds frames of another origin.
    """
    encoder = BlindEncoder() if encoder is None else encoder
    for name, wanted in (("fields", frozenset(fields)), (type(encoder).__name__, encoder.requires)):
        if missing := wanted - world.fields:
            raise ValueError(f"{name} needs {sorted(missing)}, which {type(world).__name__} cannot show.")
    for player in players:
        player.check(world)
    if frames < 1 or length < 1:
        raise ValueError(f"frames and length must be at least 1, got {frames} and {length}.")
    if not 0 <= epsilon[0] <= epsilon[1] <= 1:
        raise ValueError(f"epsilon must be a range within [0, 1], got {epsilon}.")
    if any(not player.share > 0 for player in players):
        raise ValueError(f"shares must be positive, got {[player.share for player in players]}.")
    provenance = {
        "fingerprint": encoder.fingerprint,
        "encoder": encoder.describe(),
        "task": task,
        "world": {name: value for name, value in world.provenance().items() if name != "seed"},
        "players": [player.describe() for player in players],
        "epsilon": list(epsilon) if players else None,
        "environments": world.num_envs,
        "length": length,
        "fields": sorted(fields),
        "seed": seed,
    }
    size = world.num_envs * length
    writer = ShardWriter(folder, provenance, -(-frames // size) * size, size)
    waiting = writer.missing(worker, workers)
    if workers == 1:
        remove_leftovers(writer.folder)  # nobody else writes here
    own = len(range(worker, writer.shards, workers))
    columns = (TextColumn("[bold]collecting frames"), BarColumn(bar_width=None), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), disable=not Console().is_terminal) as bar:
        progress = bar.add_task("", total=own * size, completed=(own - len(waiting)) * size)
        for shard in waiting:
            stream = _Streams(world, encoder, players, epsilon, length, fields, (seed, shard))
            writer.write(shard, stream.record(lambda count: bar.advance(progress, count)))
    if writer.missing():
        return None
    if waiting or not (writer.folder / INDEX).is_file():
        writer.finalize()
        write_manifest(folder, config=provenance, seed=seed)
    return FeatureStore(folder, verify=False)


class _Streams:
    """One shard in the making: B streams of `length` frames each."""

    def __init__(
        self,
        world: World,
        encoder: ObjectEncoder,
        players: Sequence[Player],
        epsilon: tuple[float, float],
        length: int,
        fields: Sequence[str],
        seed: tuple[int, int],
    ) -> None:
        self.world, self.players = world, players
        shares = np.cumsum([player.share for player in players])
        self.shares = shares / shares[-1:]  # up to which number each of them plays
        self.observer = Observer(encoder, Standardisation.identity(encoder.dim))
        self.range, self.length, self.seed = epsilon, length, seed[0]
        self.generator = np.random.default_rng(seed)
        self.fields, self.seen = frozenset(fields), encoder.requires | frozenset(fields)
        count = world.num_envs
        self.origin = (seed[1] * count + np.arange(count)) * length  # the record with which each stream begins
        self.filled = np.zeros(count, np.int64)  # frames of each stream so far
        self.first = np.zeros(count, np.int64)  # the frame of its stream with which the running episode began
        self.epsilon = np.zeros(count)
        self.player = np.zeros(count, np.int64)  # of each running episode
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
        self.acted = self.generator.integers(self.world.num_actions, size=count)
        plays = self.generator.random(count) >= self.epsilon
        for number, player in enumerate(self.players):
            indices = np.flatnonzero(plays & (self.player == number))
            if len(indices):
                self.acted[indices] = player.actions(self.world, indices, self.generator)
        return self.acted

    def _begin(self, indices: NDArray[np.int64]) -> None:
        """New episodes in `indices`; their first frames, where the stream has room."""
        if not len(indices):
            return
        self.first[indices] = self.filled[indices]
        self.epsilon[indices] = self.generator.uniform(*self.range, len(indices))
        names = self.origin[indices] + self.first[indices]
        drawn = np.array([np.random.SeedSequence([self.seed, int(name)]).generate_state(2) for name in names])
        self.player[indices] = np.searchsorted(self.shares, drawn[:, 1] / 2**32, side="right")
        self.world.reset(indices, (drawn[:, 0] >> 1).astype(np.int64))
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
        batch = self.world.observe(self.seen, indices)
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
        values |= self._shown(batch)
        for name, value in values.items():
            if name not in self.arrays:
                shape = (self.world.num_envs, self.length, *value.shape[1:])
                self.arrays[name] = np.zeros(shape, value.dtype)
            self.arrays[name][indices, self.filled[indices]] = value
        self.filled[indices] += 1

    def _shown(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """What is stored of the frames themselves."""
        shown: dict[str, NDArray[Any]] = {}
        if "images" in self.fields:
            shown["images"] = batch.images.numpy()
        if "segmentation" in self.fields and batch.segmentation is not None:
            if batch.segmentation.max() > MOST_OBJECTS:
                raise ValueError(f"a frame has more than {MOST_OBJECTS} objects, too many for a stored segmentation.")
            shown["segmentation"] = batch.segmentation.numpy().astype(np.int8)
        if "objects" in self.fields:
            shown |= {name: values.numpy() for name, values in batch.objects.items()}
        return shown

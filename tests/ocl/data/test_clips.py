"""Clips written as frames come back as the same clips, whatever the order in the store, and never across a gap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ocl.data.clips import ClipFrames, StoredClips
from ocl.data.collate import collate
from ocl.data.moving_scenes import MovingScenes
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.stored import StoredScenes
from ocl.data.stored_tokens import StoredTokens
from ocl.decoders.mlp import MLPDecoder
from ocl.encoders.cached import CachedEncoder
from ocl.features import extract
from ocl.generate import generate
from ocl.representations import RandomCNN
from ocl.shapes import frames_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots
from ocl.slots.predictor import SlotPredictor
from ocl.store import ShardWriter
from ocl.video import VideoModel

CLIPS, T = 6, 5


def moving() -> MovingScenes:
    return MovingScenes(CLIPS, frames=T, image_size=16, num_objects=(2, 3))


def episodes(folder: Path, numbers: list[int], steps: list[int]) -> StoredScenes:
    """Frames of one colour, their record's number."""
    writer = ShardWriter(folder, {"dataset": "test"}, len(numbers), 3)
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "images": np.arange(len(numbers), dtype=np.uint8)[:, None, None, None] + np.zeros((1, 3, 2, 2), np.uint8),
        "episode": np.array(numbers, np.int64),
        "step": np.array(steps, np.int32),
    }
    for shard in writer.missing():
        rows = writer.range(shard)
        writer.write(shard, {name: values[rows.start : rows.stop] for name, values in arrays.items()})
    writer.finalize()
    return StoredScenes(folder)


def records(clips: StoredClips) -> list[list[int]]:
    return [clip["images"][:, 0, 0, 0].tolist() for clip in clips.__getitems__(range(len(clips)))]


def test_frames_written_and_read_back_are_the_clips(tmp_path: Path) -> None:
    scenes = moving()
    generate(ClipFrames(scenes), tmp_path, shard_size=7, progress=False)  # shards that end amid clips
    clips = StoredClips(StoredScenes(tmp_path))
    assert (len(clips), clips.length) == (CLIPS, T)
    for index in (4, 0):
        for name, value in scenes[index].items():
            found = clips[index][name]
            per_frame = name in ("images", "segmentation", "visible", "position", "camera")
            assert torch.equal(found, value if per_frame else value.expand(T, *value.shape)), name
    assert clips[-1]["episode"].tolist() == [CLIPS - 1] * T
    assert clips[2]["step"].tolist() == list(range(T))


def test_tokens_of_clips_are_those_of_their_frames(tmp_path: Path) -> None:
    encoder = RandomCNN((16, 16), dim=8, strides=(2, 2))
    frames = ClipFrames(moving())
    extract(
        encoder,
        frames,
        tmp_path,
        labels=["episode", "step", "segmentation"],
        dtype="float32",
        batch_size=T,
        progress=False,
    )
    clips = StoredClips(StoredTokens(tmp_path), length=3, stride=1)
    assert len(clips) == CLIPS * (T - 2)
    batch = collate(clips.__getitems__([0, 7]))
    assert batch.images.shape == (2, 3, 1, 16, 8)
    assert batch.segmentation is not None
    assert batch.segmentation.shape == (2, 3, 16, 16)
    read = CachedEncoder(encoder.encoder)(batch.images.flatten(0, 1)).tokens.unflatten(0, (2, 3))
    whole = moving()
    for row, (clip, start) in enumerate(((0, 0), (2, 1))):  # three windows in each clip of five
        images = whole[clip]["images"][start : start + 3]
        tokens: Tensor = encoder(collate([{"images": image} for image in images])).vectors
        torch.testing.assert_close(read[row], tokens)


def test_a_model_of_video_reads_stored_tokens_as_it_reads_the_clips(tmp_path: Path) -> None:
    cnn = RandomCNN((16, 16), dim=8, strides=(2, 2))
    labels = ["episode", "step", "segmentation"]
    extract(cnn, ClipFrames(moving()), tmp_path, labels=labels, dtype="float32", batch_size=T, progress=False)
    torch.manual_seed(0)
    decoder = MLPDecoder(8, 8, (4, 4), 16, 1)
    model = VideoModel(CachedEncoder(cnn.encoder), LearnedSlots(3, 8), SlotAttention(8), decoder, SlotPredictor(8, 2))
    batches = [
        collate([clips[index] for index in (5, 1)]) for clips in (moving(), StoredClips(StoredTokens(tmp_path, labels)))
    ]
    computed, read = (model(frames_as_float(batch.images)) for batch in batches)
    torch.testing.assert_close(read.features.tokens, computed.features.tokens)
    torch.testing.assert_close(read.slots.vectors, computed.slots.vectors)
    torch.testing.assert_close(read.decoded.prediction, computed.decoded.prediction)
    assert torch.equal(batches[0].segmentation, batches[1].segmentation)


def test_episodes_may_lie_anywhere_and_clips_end_at_gaps(tmp_path: Path) -> None:
    frames = episodes(tmp_path, [7, 3, 7, 3, 7, 7, 3, 7, 7], [1, 4, 0, 5, 2, 4, 6, 5, 6])
    #              record:       0  1  2  3  4  5  6  7  8
    assert records(StoredClips(frames, length=3)) == [[1, 3, 6], [2, 0, 4], [5, 7, 8]]
    assert records(StoredClips(frames)) == [[1, 3, 6], [2, 0, 4], [5, 7, 8]], "all runs are of three frames"
    assert records(StoredClips(frames, length=2)) == [[1, 3], [2, 0], [5, 7]]
    assert records(StoredClips(frames, length=2, stride=1)) == [[1, 3], [3, 6], [2, 0], [0, 4], [5, 7], [7, 8]]


def test_a_seed_draws_clips_without_repeats(tmp_path: Path) -> None:
    frames = episodes(tmp_path, [0] * 12 + [1] * 8, [*range(12), *range(8)])
    every = records(StoredClips(frames, length=4, stride=1))
    drawn = [records(StoredClips(frames, length=4, stride=1, size=9, seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len({tuple(clip) for clip in part}) == 9 for part in drawn)
    assert all(clip in every for part in drawn for clip in part)


def test_what_makes_no_clips_is_refused_in_a_sentence(tmp_path: Path) -> None:
    frames = episodes(tmp_path / "a", [0, 0, 0, 1, 1], [0, 1, 2, 0, 1])
    cases: list[tuple[dict[str, int], str]] = [
        ({}, r"episodes have 2 to 3 frames; name the length of the clips\.$"),
        ({"length": 4}, r"no episode has 4 frames in a row; the longest has 3\.$"),
        ({"length": 2, "size": 3}, r"3 clips were asked for, the store holds 2 of 2 frames\.$"),
        ({"length": 0}, "at least 1"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            StoredClips(frames, **arguments)
    with pytest.raises(ValueError, match="two frames of one step"):
        StoredClips(episodes(tmp_path / "b", [0, 0], [1, 1]))
    generate(SpriteScenes(4), tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match=r"has no field \['episode'\]"):
        StoredClips(StoredScenes(tmp_path / "c"))
    with pytest.raises(ValueError, match=r"takes clips, images \(T 3 H W\)"):
        ClipFrames(SpriteScenes(4))
    for clips in (StoredClips(frames, length=2), ClipFrames(moving())):
        with pytest.raises(IndexError, match="indices must be in"):
            clips[len(clips)]

"""MOVi and YouTube-VIS, written in their own layouts and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ocl.data.clips import ClipFrames
from ocl.data.collate import collate
from ocl.data.movi import MOVi
from ocl.data.youtube_vis import YouTubeVIS
from ocl.describe import describe_dataset
from tests import small_sets


def movi_folder(folder: Path) -> tuple[list[np.ndarray], np.ndarray]:
    """Two shards of two and one videos of five frames, whose third object is out of view in the second frame."""
    rng = np.random.default_rng(0)
    videos = [rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8) for _ in range(3)]
    labels = np.zeros((5, 16, 16), np.uint8)
    labels[:, :8, :8], labels[:, 8:, 8:], labels[:, :4, 12:] = 1, 2, 3
    labels[1][labels[1] == 3] = 0
    records = [small_sets.movi_record(video, labels, [7, 0, 16]) for video in videos]
    small_sets.write_records(folder / "movi_e-train.tfrecord-00000-of-00002", records[:2])
    small_sets.write_records(folder / "movi_e-train.tfrecord-00001-of-00002", records[2:])
    (folder / "features.json").write_text("{}")
    return videos, labels


def test_movi_clips_hold_the_frames_of_the_records(tmp_path):
    videos, labels = movi_folder(tmp_path)
    data = MOVi(tmp_path, frames=2, size=16, max_objects=4)
    assert len(data) == 6  # two clips of every video; the fifth frame is left over
    for index in range(6):
        item, start = data[index], index % 2 * 2
        assert torch.equal(item["images"], torch.from_numpy(videos[index // 2][start : start + 2]).movedim(-1, 1))
        assert np.array_equal(item["segmentation"], labels[start : start + 2])
        assert item["class"].tolist() == [7, 0, 16, 0]
        assert item["present"].tolist() == [True, True, True, False]
        assert item["visible"].tolist() == [[True, True, True, False], [True, True, bool(start), False]]
    assert collate([data[0], data[1]]).images.shape == (2, 2, 3, 16, 16)
    assert describe_dataset(data) == describe_dataset(MOVi(tmp_path, frames=2, size=16, max_objects=4))


def test_movi_frames_are_images(tmp_path):
    _, labels = movi_folder(tmp_path)
    frames = ClipFrames(MOVi(tmp_path, frames=1, size=8, max_objects=3, label_size=16))
    assert len(frames) == 15
    item = frames[6]  # the second frame of the second video
    assert item["images"].shape == (3, 8, 8)
    assert np.array_equal(item["segmentation"], labels[1])
    assert item["visible"].tolist() == [True, True, False]


def test_movi_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="splits train, validation, test, not 'val'"):
        MOVi(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match="is not a folder; give one version"):
        MOVi(tmp_path / "movi_e")
    with pytest.raises(FileNotFoundError, match="holds no shard of the split 'train'"):
        MOVi(tmp_path)
    movi_folder(tmp_path)
    with pytest.raises(ValueError, match="none of 3 videos has 6 frames; the longest has 5"):
        MOVi(tmp_path, frames=6)
    with pytest.raises(ValueError, match=r"Record 0 of .*00000-of-00002 shows 3 objects; read it with max_objects=3"):
        MOVi(tmp_path, frames=5, max_objects=2)[0]
    shard = tmp_path / "movi_e-train.tfrecord-00001-of-00002"
    frame, labels = np.zeros((5, 16, 16, 3), np.uint8), np.zeros((5, 16, 16), np.uint8)
    good = {"video": [small_sets.png(one) for one in frame], "segmentations": [small_sets.png(one) for one in labels]}
    classes = {"instances/category": np.array([1], np.int64)}
    for broken, message in (
        (
            {**good, "segmentations": [small_sets.png(one + 2) for one in labels], **classes},
            "shows the object 2, but 1",
        ),
        ({**good, "video": good["video"][:4], **classes}, "has fewer than 5 frames or maps"),
        ({**good, "video": [b"no png"] * 5, **classes}, "holds a frame that is no image"),
        ({**good, "segmentations": [small_sets.png(one[:8]) for one in labels], **classes}, r"is \(8, 16\), its image"),
        ({"segmentations": good["segmentations"], **classes}, "no bytes 'video'"),
        (good, "no integers 'metadata/num_instances'"),
    ):
        small_sets.write_records(shard, [small_sets.example(**broken)])
        with pytest.raises(ValueError, match=message):
            MOVi(tmp_path, frames=5)[2]
    small_sets.write_records(shard, [b"nonsense"])
    with pytest.raises(ValueError, match=r"Record 0 of .*00001-of-00002 cannot be read: a record is no tf"):
        MOVi(tmp_path, frames=5)[2]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 shards of 'train', number 1 first"):
        MOVi(tmp_path)
    small_sets.write_records(tmp_path / "movi_c-train.tfrecord-00001-of-00002", [])
    with pytest.raises(ValueError, match="shards of several sets"):
        MOVi(tmp_path)


def vis_folder(folder: Path) -> None:
    """Three videos of 5, 2 and 4 frames of 20 x 30 pixels; columns 5 to 24 are cut out."""

    def code(first: int, last: int, shape: tuple[int, int] = (20, 30)) -> dict:
        """Columns `first` up to `last`."""
        height, width = shape
        return {"size": [height, width], "counts": [height * first, height * (last - first), height * (width - last)]}

    videos, annotations = [], []
    for number, frames in ((3, 5), (1, 2), (2, 4)):
        names = [f"v{number}/{frame:05d}.jpg" for frame in range(frames)]
        for name in names:
            small_sets.photograph(folder / "JPEGImages" / name, 20, 30)
        videos.append({"id": number, "file_names": names, "height": 20, "width": 30, "length": frames})
        tracks = [(4, 0, [code(5 + frame, 11 + frame) for frame in range(frames)])]
        tracks += [(9, 0, [None if frame == 1 else code(13, 20) for frame in range(frames)])]
        tracks += [(9, 1, [code(12, 23)] * frames)]
        annotations += [
            {"id": 10 * number + place, "video_id": number, "category_id": category, "iscrowd": crowd}
            | {"segmentations": track}
            for place, (category, crowd, track) in enumerate(tracks)
        ]
    categories = [{"id": 4, "name": "boat"}, {"id": 9, "name": "cow"}]
    content = {"videos": videos, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def test_youtube_vis_follows_its_objects(tmp_path):
    vis_folder(tmp_path)
    data = YouTubeVIS(tmp_path, frames=4, size=20, max_objects=3)
    assert (len(data), data.left_out) == (2, 1)
    assert data.class_names == {4: "boat", 9: "cow"}
    item = data[1]
    assert [data.name(video) for video in range(3)] == ["Video 1", "Video 2", "Video 3"]
    assert item["class"].tolist() == [4, 9, 0]
    assert item["present"].tolist() == [True, True, False]
    assert item["visible"].tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    expected = np.zeros((4, 20), int)
    for frame in range(4):
        expected[frame, 7:18] = -1  # the crowd, columns 12 to 22 of the frame
        if frame != 1:
            expected[frame, 8:15] = 2
        expected[frame, frame : frame + 6] = 1
        if frame == 3:
            expected[frame, 8] = -1  # both objects
    assert np.array_equal(item["segmentation"], expected[:, None].repeat(20, 1))
    assert YouTubeVIS(tmp_path, frames=4, size=20, overlap=0)[1]["segmentation"][3, 0, 8] == 0
    assert len(YouTubeVIS(tmp_path, frames=2, first=1)) == 4
    assert len(YouTubeVIS(tmp_path, frames=2, last=1)) == 1


def test_youtube_vis_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"instances\.json is missing"):
        YouTubeVIS(tmp_path)
    vis_folder(tmp_path)
    with pytest.raises(ValueError, match="none of 3 videos has 6 frames; the longest has 5"):
        YouTubeVIS(tmp_path, frames=6)
    with pytest.raises(ValueError, match="lists no object in videos 3 to None"):
        YouTubeVIS(tmp_path, first=3)
    with pytest.raises(ValueError, match="shows 2 objects; read it with max_objects=2"):
        YouTubeVIS(tmp_path, frames=2, max_objects=1)[0]
    path = tmp_path / "instances.json"
    whole = path.read_text()
    for broken in ({"videos": []}, [], {**json.loads(whole), "videos": [{"id": 1}]}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="is not in the form of YouTube-VIS"):
            YouTubeVIS(tmp_path)
    for damaged in ([{"size": [20, 31], "counts": [620]}] * 2, [{"size": [20, 30], "counts": [7]}] * 2, [None]):
        content = json.loads(whole)
        content["annotations"][3]["segmentations"] = damaged  # of video 1, the first in the order of the ids
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="annotations of Video 1 hold a damaged mask"):
            YouTubeVIS(tmp_path, frames=2)[0]
    secret = {**json.loads(whole), "annotations": None}
    path.write_text(json.dumps(secret))
    with pytest.raises(ValueError, match="the masks of valid and test are secret"):
        YouTubeVIS(tmp_path)
    path.write_text(whole)
    (tmp_path / "JPEGImages" / "v2" / "00003.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"00003\.jpg is missing"):
        YouTubeVIS(tmp_path)

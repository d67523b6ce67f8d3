"""Published data sets in small: the same files in the same layout, with noise for photographs."""

from __future__ import annotations

import gzip
import json
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from ocl.data.crc32c import crc32c, masked

RNG = np.random.default_rng(0)


def photograph(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)


def indexed(path: Path, numbers: np.ndarray) -> None:
    """A PNG with a palette, in which equal colours stand for different numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(numbers.astype(np.uint8), "L").convert("L")
    picture.putpalette([128, 0, 0] * 256)
    picture.save(path)


def varint(value: int) -> bytes:
    value %= 1 << 64
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features: Any) -> bytes:
    """tf.train.Example: lists of bytes; arrays of uint8 byte by byte, of floats, of integers."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            feature = field(1, b"".join(field(1, value) for value in values))
        elif values.dtype == np.uint8:
            single = np.full((values.size, 3), (10, 1, 0), np.uint8)  # field 1, one byte, which is
            single[:, 2] = values.flatten()
            feature = field(1, single.tobytes())
        elif values.dtype == np.float32:
            feature = field(2, field(1, values.astype("<f4").tobytes()))
        else:
            feature = field(3, field(1, b"".join(map(varint, values.flatten().tolist()))))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def write_records(path: Path, records: list[bytes], compressed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        checksums = [struct.pack("<I", masked(crc32c(part))) for part in (length, record)]
        content += length + checksums[0] + record + checksums[1]
    path.write_bytes(gzip.compress(content) if compressed else content)


def png(pixels: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def coco(folder: Path, train: int = 4, val: int = 2) -> None:
    """COCO 2017: photographs and instances, two polygons that overlap and a crowd on each."""
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for number in range(count):
            photograph(folder / f"{split}2017" / f"{number:012d}.jpg", 40, 60)
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": 40, "width": 60})
            squares = [[12, 2, 32, 2, 32, 22, 12, 22], [26, 16, 46, 16, 46, 36, 26, 36]]
            crowd = {"size": [40, 60], "counts": [47 * 40, 13 * 40]}
            for place, (category, segmentation) in enumerate([(1, [squares[0]]), (18, [squares[1]]), (1, crowd)]):
                annotations.append(
                    {"id": 10 * number + place, "image_id": number, "category_id": category, "iscrowd": place // 2}
                    | {"segmentation": segmentation, "area": 400, "bbox": [0, 0, 1, 1]}
                )
        categories = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 18, "name": "dog"}]
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def voc_maps(folder: Path, name: str, classes: np.ndarray, instances: np.ndarray) -> None:
    photograph(folder / "JPEGImages" / f"{name}.jpg", *classes.shape)
    indexed(folder / "SegmentationClass" / f"{name}.png", classes)
    indexed(folder / "SegmentationObject" / f"{name}.png", instances)


def sbd_map(folder: Path, name: str, instances: np.ndarray, classes: list[int]) -> None:
    (folder / "inst").mkdir(parents=True, exist_ok=True)
    truth = {"Segmentation": instances.astype(np.uint8), "Categories": np.array(classes, np.uint8)[:, None]}
    savemat(folder / "inst" / f"{name}.mat", {"GTinst": truth})


def voc(folder: Path, sbd: Path) -> None:
    """VOC 2012 with two photographs in train, two in val and two that SBD alone has outlined."""
    classes, instances = np.zeros((40, 60), int), np.zeros((40, 60), int)
    classes[5:20, 15:30], instances[5:20, 15:30] = 15, 1
    classes[5:20, 30:45], instances[5:20, 30:45] = 15, 2
    classes[20, 15:45] = instances[20, 15:45] = 255
    names = [f"2007_{number:06d}" for number in range(6)]
    for name in names[:4]:
        voc_maps(folder, name, classes, instances)
    for name in names[1:]:  # one of train and all of val among them
        photograph(folder / "JPEGImages" / f"{name}.jpg", 40, 60)
        sbd_map(sbd, name, np.where(instances < 255, instances, 0), [15, 15])
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, chosen in (("train", names[:2]), ("val", names[2:4]), ("trainval", names[:4])):
        (lists / f"{split}.txt").write_text("\n".join(chosen) + "\n")
    (sbd / "train.txt").write_text("\n".join(names[1:4]) + "\n")
    (sbd / "val.txt").write_text("\n".join(names[4:]) + "\n")


def movi_record(video: np.ndarray, labels: np.ndarray, categories: list[int]) -> bytes:
    """Frames (T H W 3) and maps (T H W) uint8, with depth that nobody reads."""
    return example(
        **{
            "metadata/num_instances": np.array([len(categories)]),
            "instances/category": np.array(categories, np.int64),
            "video": [png(frame) for frame in video],
            "segmentations": [png(frame) for frame in labels],
            "depth": [bytes(1000) for _ in video],
        }
    )


def movi(folder: Path, name: str = "movi_c", frames: int = 4, shards: int = 2) -> None:
    """Four videos of three objects for training, two to validate on."""
    labels = np.zeros((frames, 32, 32), np.uint8)
    for frame in range(frames):
        for number in range(3):
            labels[frame, 10 * number : 10 * number + 8, frame : frame + 10] = number + 1
    for split, per_shard in (("train", 2), ("validation", 1)):
        for shard in range(shards):
            videos = RNG.integers(0, 256, (per_shard, frames, 32, 32, 3), dtype=np.uint8)
            records = [movi_record(video, labels, [0, 5, 16]) for video in videos]
            write_records(folder / f"{name}-{split}.tfrecord-{shard:05d}-of-{shards:05d}", records)

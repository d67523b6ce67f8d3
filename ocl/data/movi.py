"""MOVi: simulated videos of falling things, MOVi-A to MOVi-F (Greff et al., Kubric, CVPR 2022), without TensorFlow."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocl.data.images import files_digest
from ocl.data.tf_examples import Example
from ocl.data.tf_records import TFRecordFile
from ocl.data.videos import Videos

SPLITS = ("train", "validation", "test")


class MOVi(Videos):
    """Clips of MOVi from the shards of TensorFlow Datasets; see `Videos` for the items.

    Shards are mapped, so of a video only the frames of a clip are read: not its depth, flow or normals, which are most
    of it. "class" (M) is "instances/category" where the release has it (B to F), else 0. Instances are numbered by the
    release, by falling visibility.

    Args:
        folder: of one version, such as movi_c/128x128/1.0.0, with movi_c-train.tfrecord-00000-of-01024.
        split: "train", "validation" or "test".
        frames: T; published videos have 24.
        size: S in pixels.
        max_objects: M; published: up to 10 (A, B, C), 23 (D, E).
        label_size: see `Videos`. Figures published for MOVi are of 128.

    Raises:
        FileNotFoundError: no such folder, no shard of the split in it, or a missing one.
        ValueError: an unknown split, a damaged shard, shards of several sets or, on reading, records that are none of
            MOVi or show too many objects.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        frames: int = 24,
        size: int = 128,
        max_objects: int = 23,
        label_size: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"MOVi has the splits {', '.join(SPLITS)}, not {split!r}.")
        folder = Path(folder)
        paths = shards_of(folder, split)
        self._files = [TFRecordFile(path) for path in paths]
        self._places = [(number, record) for number, file in enumerate(self._files) for record in range(len(file))]
        if not self._places:
            raise ValueError(f"the shards of {split!r} in {folder} hold no record; fetch them again.")
        # The format fixes one length for all videos of a set.
        length = len(self._example(0).texts("video"))
        super().__init__([length] * len(self._places), frames, size, max_objects, label_size)
        self.split, self.files_sha256 = split, files_digest(folder, paths)

    def read(self, video: int, start: int) -> tuple[list[Image.Image], list[NDArray[np.integer[Any]]]]:
        example, name, stop = self._example(video), self.name(video), start + self.frames
        images, maps = (example.texts(kind)[start:stop] for kind in ("video", "segmentations"))
        if not len(images) == len(maps) == self.frames:
            raise ValueError(
                f"{name} has fewer than {stop} frames or maps, unlike the first record; fetch the shard again."
            )
        decoded = [_decoded(image, name).convert("RGB") for image in images]
        return decoded, [np.asarray(_decoded(labels, name)) for labels in maps]

    def attributes(self, video: int) -> dict[str, NDArray[Any]]:
        example = self._example(video)
        if "instances/category" in example.names:
            return {"class": example.integers("instances/category")}
        count = int(example.integers("metadata/num_instances", 1)[0])
        return {"class": np.zeros(count, np.int64)}

    def name(self, video: int) -> str:
        number, record = self._places[video]
        return f"Record {record} of {self._files[number].path}"

    def _example(self, video: int) -> Example:
        number, record = self._places[video]
        try:
            return Example(self._files[number][record])
        except ValueError as error:
            raise ValueError(f"{self.name(video)} cannot be read: {error}") from error


def shards_of(folder: Path, split: str) -> list[Path]:
    """name-split.tfrecord-00003-of-00016 for every number, whole or not at all."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give one version, such as movi_c/128x128/1.0.0.")
    pattern = re.compile(rf"(.+)-{split}\.tfrecord-(\d+)-of-(\d+)")
    found = [(match, path) for path in sorted(folder.iterdir()) if (match := pattern.fullmatch(path.name))]
    if not found:
        raise FileNotFoundError(f"{folder} holds no shard of the split {split!r}, such as movi_c-{split}.tfrecord-...")
    if len({(match[1], match[3]) for match, _ in found}) > 1:
        raise ValueError(f"{folder} holds shards of several sets for {split!r}; give a folder of one.")
    missing = sorted(set(range(int(found[0][0][3]))) - {int(match[2]) for match, _ in found})
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} shards of {split!r}, number {missing[0]} first; fetch them."
        )
    return [path for _, path in found]


def _decoded(content: memoryview, name: str) -> Image.Image:
    try:
        image: Image.Image = Image.open(BytesIO(content))
        image.load()
        return image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} holds a frame that is no image ({error}); fetch the shard again.") from error

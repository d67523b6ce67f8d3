"""YouTube-VIS: videos with the mask of every object of forty classes (Yang, Fan, Xu, ICCV 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ocl.data.coco_annotations import code_of, painted
from ocl.data.images import files_digest, read_image
from ocl.data.videos import Videos
from ocl.files import read_json
from ocl.shapes import IGNORE


class YouTubeVIS(Videos):
    """Clips of YouTube-VIS; see `Videos` for the items.

    Every annotation of a video is an object, in the order of the file, and "class" (M) its category. Pixels of several
    objects are unknown, label -1, and so are those of crowds that belong to no object. Only the train split has public
    masks: hold some of its videos out with `first` and `last`.

    Args:
        folder: of the split, such as ytvis_2021/train, with JPEGImages.
        annotations: JSON in the folder: instances.json (2021), or the path of another, such as ../train.json (2019) or
            the one of HQ-YTVIS.
        frames: T.
        size: S in pixels.
        max_objects: M.
        label_size: see `Videos`.
        overlap: label of the pixels of several objects, -1 or 0.
        first, last: which videos, in the order of their ids: `first` up to but without `last`; None: up to the end.

    Raises:
        FileNotFoundError: a missing file.
        ValueError: annotations in another form, a range without videos or, on reading, a damaged file, frames of
            several sizes or too many objects.
    """

    def __init__(
        self,
        folder: str | Path,
        annotations: str = "instances.json",
        frames: int = 6,
        size: int = 224,
        max_objects: int = 32,
        label_size: int | None = None,
        overlap: int = IGNORE,
        first: int = 0,
        last: int | None = None,
    ) -> None:
        if overlap not in (IGNORE, 0):
            raise ValueError(f"overlap is {IGNORE} or 0, got {overlap}.")
        folder = Path(folder)
        path = folder / annotations
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; unpack the videos and their annotations, or name another file."
            )
        content = read_json(path)
        try:
            self.class_names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            self._videos = sorted(content["videos"], key=lambda video: int(video["id"]))[first:last]
            self._files = [[folder / "JPEGImages" / name for name in video["file_names"]] for video in self._videos]
            self._shapes = [(int(video["height"]), int(video["width"])) for video in self._videos]
            objects: dict[int, list[Any]] = {int(video["id"]): [] for video in content["videos"]}
            for entry in content["annotations"] or ():
                objects[int(entry["video_id"])].append(entry)
            self._objects = [objects[int(video["id"])] for video in self._videos]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not in the form of YouTube-VIS ({error!r}); restore it.") from error
        if not any(self._objects):
            raise ValueError(
                f"{path} lists no object in videos {first} to {last}; the masks of valid and test are secret."
            )
        frame_files = [file for files in self._files for file in files]
        absent = next((file for file in frame_files if not file.is_file()), None)
        if absent is not None:
            raise FileNotFoundError(f"{absent} is missing; unpack the frames beside the annotations.")
        super().__init__([len(files) for files in self._files], frames, size, max_objects, label_size)
        self.overlap, self.first, self.last = overlap, first, last
        self.annotation_bytes, self.files_sha256 = path.stat().st_size, files_digest(folder, frame_files)

    def read(self, video: int, start: int) -> tuple[list[Image.Image], list[NDArray[np.integer[Any]]]]:
        chosen = range(start, start + self.frames)
        images = [read_image(self._files[video][frame]) for frame in chosen]
        try:
            return images, [self._labels(video, frame) for frame in chosen]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"The annotations of {self.name(video)} hold a damaged mask ({error}); restore them."
            ) from error

    def attributes(self, video: int) -> dict[str, NDArray[Any]]:
        things = [entry for entry in self._objects[video] if not entry.get("iscrowd", 0)]
        return {"class": np.array([int(entry["category_id"]) for entry in things], np.int64)}

    def name(self, video: int) -> str:
        return f"Video {self._videos[video]['id']}"

    def _labels(self, video: int, frame: int) -> NDArray[np.int64]:
        shape = self._shapes[video]
        numbers, things, crowds, number = [], [], [], 0
        for entry in self._objects[video]:
            crowd, mask = bool(entry.get("iscrowd", 0)), entry["segmentations"][frame]
            number += not crowd
            if mask is None:  # out of view
                continue
            code = code_of(mask, *shape)
            if crowd:
                crowds.append(code)
            else:
                numbers.append(number)
                things.append(code)
        return painted(things, numbers, shape, self.overlap, crowds)

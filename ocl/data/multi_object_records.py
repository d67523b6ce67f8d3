"""DeepMind's multi-object data sets as published: one GZIP file of records each, with a mask for every entity."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from ocl.data.images import center_image, center_labels
from ocl.data.scenes import Item
from ocl.data.tf_examples import Example
from ocl.data.tf_records import GzipRecords

Arrays = dict[str, NDArray[Any]]


class MultiObjectRecords(Dataset[Item], ABC):
    """Items: "images" (3 S S) uint8; "segmentation" (S S) uint8, 0 background, m + 1 the object in column m; "visible"
    (M) bool, at least a pixel is seen; attributes (M ...).

    The first mask is the background. A compressed file is read from its front, so items are fast in rising order alone:
    write them once with `ocl generate` (one process, no workers), and train on `ocl.data.stored.StoredScenes`.

    Args:
        path: of the file as published.
        first, last: which records: `first` up to but without `last`.
        size: S in pixels.
        max_objects: M, entities without the background.

    Raises:
        FileNotFoundError: no such file.
        ValueError: an empty range; on reading, a damaged file or another data set.
        IndexError: on reading, a record after the last.
    """

    def __init__(self, path: str | Path, first: int, last: int, size: int, max_objects: int) -> None:
        if not 0 <= first < last or size < 1:
            raise ValueError(f"records are 0 <= first < last, of at least 1 pixel, got {first}, {last} and {size}.")
        self.first, self.last = first, last
        self.image_size, self.max_objects = (size, size), max_objects
        self._records = GzipRecords(path)
        self.file_bytes = Path(path).stat().st_size

    @abstractmethod
    def decode(self, example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Arrays]:
        """The image (H W 3), the masks (M + 1, H, W) and the attributes (M ...)."""

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__} has {len(self)} items; there is none at index {index}.")
        record = self._records[self.first + index]
        try:
            pixels, masks, attributes = self.decode(Example(record))
        except ValueError as error:
            name = f"Record {self.first + index} of {self._records.path}"
            raise ValueError(f"{name} is none of {type(self).__name__}: {error}") from error
        image = Image.fromarray(np.ascontiguousarray(pixels))
        labels = center_labels(masks.argmax(axis=0), image, self.image_size[0], self._records.path).astype(np.uint8)
        visible = np.isin(np.arange(1, self.max_objects + 1), labels)
        return {
            "images": torch.from_numpy(center_image(image, self.image_size[0])),
            "segmentation": torch.from_numpy(labels),
            "visible": torch.from_numpy(visible),
            **{name: torch.from_numpy(np.array(values)) for name, values in attributes.items()},
        }


class CLEVRWithMasks(MultiObjectRecords):
    """CLEVR with masks: 100,000 rendered scenes of 3 to 10 objects; see `MultiObjectRecords`.

    The central square of 192 pixels of the 320 x 240 image. Attributes: "position" (M 2) of the centre as (x, y) in the
    cut, y down, outside [0, 1] for what is cut away; "shape", "color", "material" and "size" (M), the numbers of the
    file, which count from 1; "angle" (M) in degrees as stored.

    Args:
        path: of clevr_with_masks_train.tfrecords.
        first, last: published splits use the first 70,000 for training.
        size: S in pixels; published: 128.
        top: first row of the cut: 29 (DeepMind) or 24 (GENESIS, OCLF). Figures differ by little, images by 5 pixels.
    """

    def __init__(self, path: str | Path, first: int = 0, last: int = 70_000, size: int = 128, top: int = 29) -> None:
        super().__init__(path, first, last, size, 10)
        if not 0 <= top <= 240 - 192:
            raise ValueError(f"top must leave 192 of 240 rows, got {top}.")
        self.top = top

    def decode(self, example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Arrays]:
        rows, columns = slice(self.top, self.top + 192), slice(64, 256)
        pixels, masks = example.pixels("image", 240, 320, 3), example.pixels("mask", 11, 240, 320)
        places = example.floats("pixel_coords", 11, 3)[1:, :2]
        names = ("shape", "color", "material", "size")
        attributes: Arrays = {name: example.pixels(name, 11)[1:].astype(np.int64) for name in names}
        attributes["position"] = (places - np.array([64, self.top], np.float32)) / np.float32(192)
        attributes["angle"] = example.floats("rotation", 11)[1:]
        return pixels[rows, columns], masks[:, rows, columns], attributes


class MultiDSpritesRecords(MultiObjectRecords):
    """Multi-dSprites as published: 1,000,000 images of 64 x 64 pixels per variant; see `MultiObjectRecords`.

    Attributes: "shape" (M), 1 square, 2 ellipse, 3 heart; "scale", "angle" (radians), "x" and "y" (M) float32 in [0, 1]
    as stored; "rgb" (M 3) as stored, the grey value three times for the binary variant.

    Args:
        path: of multi_dsprites_colored_on_grayscale.tfrecords or another variant.
        first, last: published splits use the first 60,000 for training.
        entities: masks per image, the background's among them: 6 (colored_on_grayscale), 5 (colored_on_colored) or 4
            (binarized).
    """

    def __init__(self, path: str | Path, first: int = 0, last: int = 60_000, entities: int = 6) -> None:
        if not 4 <= entities <= 6:
            raise ValueError(f"Multi-dSprites has 4, 5 or 6 entities, got {entities}.")
        super().__init__(path, first, last, 64, entities - 1)
        self.entities = entities

    def decode(self, example: Example) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Arrays]:
        count, channels = self.entities, 1 if self.entities == 4 else 3
        pixels = np.broadcast_to(example.pixels("image", 64, 64, channels), (64, 64, 3))
        masks = example.pixels("mask", 64, 64, count).transpose(2, 0, 1)
        stored = (("scale", "scale"), ("angle", "orientation"), ("x", "x"), ("y", "y"))
        attributes: Arrays = {name: example.floats(there, count)[1:] for name, there in stored}
        attributes["shape"] = example.floats("shape", count)[1:].astype(np.int64)
        attributes["rgb"] = np.broadcast_to(example.floats("color", count, channels)[1:], (count - 1, 3))
        return pixels, masks, attributes

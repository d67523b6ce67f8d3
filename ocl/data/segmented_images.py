"""Photographs with segments that have classes: what ADE20K, COCO and PASCAL VOC share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ocl.data.images import center_image, center_labels, files_digest, read_image
from ocl.data.scenes import Item


class SegmentedImages(Dataset[Item], ABC):
    """Items: "images" (3 S S) uint8; "segmentation" (L L) int32, 0 no object, m + 1 the object in column m, -1 unknown;
    "visible" (M) bool, attributes (M), "class" int64 among them where objects have classes.

    Objects are numbered anew in every item, in the order of the data set's own numbers, those outside the cut left
    out. Labels are resized nearest neighbour.

    Args:
        folder: which the digest of the files is relative to.
        paths: the photographs.
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        label_size: L, of the same cut; None: S. Figures published for DINOSAUR and SPOT are of 320, images of 224.

    Raises:
        ValueError: sizes below 1; on reading, a damaged file, another size than the photograph's, or too many objects.
    """

    def __init__(
        self, folder: Path, paths: list[Path], size: int, max_objects: int, label_size: int | None = None
    ) -> None:
        self.label_size = size if label_size is None else label_size
        if size < 1 or max_objects < 1 or self.label_size < 1:
            found = f"{size}, {max_objects} and {self.label_size}"
            raise ValueError(f"size and max_objects must be at least 1, and so must label_size, got {found}.")
        self.image_size, self.max_objects = (size, size), max_objects
        self.files_sha256 = files_digest(folder, paths)
        self._paths = paths

    @abstractmethod
    def segments(self, index: int) -> NDArray[np.int64]:
        """(H W) of the whole photograph: 0 no object, -1 unknown, other numbers one object each."""

    @abstractmethod
    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Attributes (m) of the objects with these numbers (m)."""

    def photograph(self, index: int) -> Image.Image:
        """What the items are cut from, as large as the map of `segments`."""
        return read_image(self._paths[index])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path, size = self._paths[index], self.image_size[0]
        image = self.photograph(index)
        labels = center_labels(self.segments(index), image, self.label_size, path).astype(np.int64)
        numbers = np.unique(labels[labels > 0])
        count = len(numbers)
        if count > self.max_objects:
            raise ValueError(f"{path} shows {count} objects; read it with max_objects={count} or more.")
        segmentation = np.where(labels > 0, np.searchsorted(numbers, labels) + 1, labels).astype(np.int32)
        columns = {"visible": np.ones(count, bool), **self.attributes(index, numbers)}
        return {
            "images": torch.from_numpy(center_image(image, size)),
            "segmentation": torch.from_numpy(segmentation),
            **{name: self._padded(values) for name, values in columns.items()},
        }

    def path(self, index: int) -> Path:
        """The photograph of an item."""
        return self._paths[index]

    def _padded(self, values: NDArray[Any]) -> Tensor:
        padded = np.zeros(self.max_objects, values.dtype)
        padded[: len(values)] = values
        return torch.from_numpy(padded)


def read_channels(path: Path) -> NDArray[np.int64]:
    """(H W 3) of a picture whose colours are numbers.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image, or not with three channels.
    """
    mode, channels = _read_annotation(path)
    if mode != "RGB":
        raise ValueError(f"{path} has the channels {mode}, not RGB, so its colours are no numbers; restore it.")
    return channels


def read_indices(path: Path) -> NDArray[np.int64]:
    """(H W) of a picture of 8 bits, grey or with a palette: its numbers in 0..255, not its colours.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable image, or of other channels.
    """
    mode, numbers = _read_annotation(path)
    if mode not in ("L", "P"):
        raise ValueError(f"{path} has the channels {mode}, not one of 8 bits that numbers segments; restore it.")
    return numbers


def _read_annotation(path: Path) -> tuple[str, NDArray[np.int64]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore the annotations.")
    try:
        with Image.open(path) as image:
            return image.mode, np.asarray(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image ({error}); restore it.") from error

"""Segmentations of an image folder from files: label maps in PNG, or one COCO file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.images import Segmentations, files_digest
from ocl.masks.coco import CocoFile
from ocl.masks.files import read_label_map
from ocl.shards import sha256_of


class LabelMapFolder(Segmentations):
    """The label map `a/b.jpg.png` or `a/b.png` for the image `a/b.jpg`: what `ocl masks` writes, and what others do.

    Args:
        folder: of the label maps.
        images: of the images; paths below the two must agree.

    Raises:
        FileNotFoundError: no such folder; on reading, no label map for an image.
    """

    def __init__(self, folder: str | Path, images: str | Path) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give one that holds label maps.")
        self._folder, self._images = Path(folder), Path(images)
        self.files_sha256 = files_digest(self._folder, sorted(self._folder.rglob("*.png")))
        """Tells these label maps from others of the same images."""

    def segmentation(self, image: Path) -> NDArray[np.integer[Any]]:
        place = self._folder / image.relative_to(self._images)
        candidates = [place.with_name(f"{place.name}.png"), place.with_suffix(".png")]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if not found:
            raise FileNotFoundError(f"{image} has no label map {candidates[0]}, nor {candidates[1].name} beside it.")
        return read_label_map(found[0]).numpy()


class CocoSegmentations(Segmentations):
    """The instances of a COCO file, painted; images are known by their paths below `images`.

    Args:
        path: of the JSON file.
        images: the folder of the images.
    """

    def __init__(self, path: str | Path, images: str | Path) -> None:
        self._file, self._images = CocoFile(path), Path(images)
        self.file_sha256 = sha256_of(Path(path))

    def segmentation(self, image: Path) -> NDArray[np.integer[Any]]:
        return self._file.segmentation(image.relative_to(self._images).as_posix()).numpy()

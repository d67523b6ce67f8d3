"""BSDS500: photographs and what four to nine people saw in each (Arbelaez, Maire, Fowlkes, Malik, TPAMI 2011)."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
from torch import Tensor
from torch.utils.data import Dataset

from ocl.data.images import ImageFolder, Segmentations, center_image, center_labels, read_image
from ocl.data.scenes import Item

SPLITS = ("train", "val", "test")
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError, zlib.error)
"""What scipy raises on files that are cut off or altered."""


class HumanSegmentations(Segmentations):
    """From a folder of BSDS500's MATLAB files: the map of one person for every image."""

    def __init__(self, folder: str | Path, annotator: int = 0) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give one that holds segmentations.")
        self.annotator = annotator
        self._folder = Path(folder)

    def segmentation(self, image: Path) -> NDArray[np.uint16]:
        people = self.people(image)
        if not 0 <= self.annotator < len(people):
            raise ValueError(f"{image} has the maps of people 0 to {len(people) - 1}, none of {self.annotator}.")
        return people[self.annotator]

    def people(self, image: Path) -> list[NDArray[np.uint16]]:
        """The maps (H W) of all people."""
        return read_segmentations(self._folder / f"{image.stem}.mat")


class BSDS500(Dataset[Item]):
    """Items: "images" (3 S S) uint8 and "segmentation" (S S) int32 of one person, labels from 1.

    The segments cover the image: there is no background. People disagree, so publish the mean over all of them
    (`annotator=None`) or score against every map of `segmentations`.

    Args:
        folder: the one with `images` and `groundTruth`.
        split: "train" (200), "val" (100) or "test" (200 photographs).
        size: S in pixels; short side resized to S, centre cut out, labels nearest neighbour.
        annotator: whose segmentation, 0 to 3 (every photograph has at least four); None makes every pair of photograph
            and person an item of its own.
        people_seed: puts the people of each photograph in a random order, of its own, before `annotator` is counted:
            0 is then anybody and 1 somebody else. None keeps the files' order, whose first people cut more coarsely
            than the others.

    Raises:
        FileNotFoundError: the folder or a segmentation is not there.
        ValueError: an unknown split or annotator, or a damaged file.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        size: int = 224,
        annotator: int | None = 0,
        people_seed: int | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"BSDS500 has the splits {', '.join(SPLITS)}, not {split!r}.")
        if annotator is not None and not 0 <= annotator <= 3:
            raise ValueError(f"BSDS500: annotator must be in 0..3 or None for all of them, got {annotator}.")
        images = ImageFolder(Path(folder) / "images" / split, size)
        self.split, self.annotator, self.people_seed = split, annotator, people_seed
        self.image_size, self.files_sha256 = images.image_size, images.files_sha256
        self._masks = HumanSegmentations(Path(folder) / "groundTruth" / split)
        self._paths = [images.path(index) for index in range(len(images))]
        self._items = [(path, person) for index, path in enumerate(self._paths) for person in self._chosen(index, path)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Item:
        path, person = self._items[index]
        image, size = read_image(path), self.image_size[0]
        labels = center_labels(self._masks.people(path)[person], image, size, path)
        return {"images": torch.from_numpy(center_image(image, size)), "segmentation": torch.from_numpy(labels)}

    def segmentations(self, index: int) -> Tensor:
        """(A S S) int32: what each of the A people saw in the photograph of item `index`."""
        path, _ = self._items[index]
        image, size = read_image(path), self.image_size[0]
        maps = [center_labels(labels, image, size, path) for labels in self._masks.people(path)]
        return torch.from_numpy(np.stack(maps))

    def _chosen(self, index: int, path: Path) -> list[int]:
        if self.annotator is not None and self.people_seed is None:
            return [self.annotator]
        order = list(range(len(self._masks.people(path))))
        if self.people_seed is not None:
            order = np.random.default_rng([self.people_seed, index]).permutation(order).tolist()
        return order if self.annotator is None else [order[self.annotator]]


def read_segmentations(path: Path) -> list[NDArray[np.uint16]]:
    """The (H W) label maps in a MATLAB file of BSDS500, one per person.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of BSDS500.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore the segmentations of BSDS500.")
    try:
        people: Any = loadmat(path)["groundTruth"]
        maps = [people[0, person]["Segmentation"][0, 0] for person in range(people.shape[1])]
        sound = bool(maps) and all(labels.ndim == 2 and labels.dtype == np.uint16 for labels in maps)
    except DAMAGE as error:
        raise ValueError(f"{path} is not a segmentation file of BSDS500 ({error}); restore it.") from error
    if not sound:
        raise ValueError(f"{path} holds no label maps of BSDS500 (uint16, two dimensions); restore it.")
    return maps

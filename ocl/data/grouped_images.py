"""Photographs in folders, each with a class and a group of its own: what the sets with spurious backgrounds share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ocl.data.images import EXTENSIONS, Segmentations, center_image, center_labels, read_image
from ocl.data.scenes import Item
from ocl.describe import class_path, plain_attributes


@dataclass(frozen=True)
class Example:
    """A photograph's file, its class and its group."""

    path: Path
    label: int
    group: int


class GroupedImages(Dataset[Item]):
    """Items: "images" (3 S S) uint8; "visible" (1) bool, "class" and "group" (1) int64, which belong to the image.

    With `masks` also "segmentation" (S S) int32 of the same pixels, nearest neighbour, in which label 1 is the object
    that the class is of. Short side resized to S and the centre cut out: what lies at the ends of a wide photograph is
    not seen.

    Args:
        folder: which the digest of the files is relative to.
        examples: the photographs, in the order of the items.
        size: S in pixels.
        classes: C names; an item's class is a place among them.
        group_names: G names; an item's group is a place among them.
        group_ratios: (G) shares of the groups where the shortcut holds, as in training: what in-distribution accuracy
            weighs the groups by. None where they are not known.
        masks: gives the label map of a photograph.

    Raises:
        FileNotFoundError: no photograph, or one that is not there.
        ValueError: a size below 1, a photograph that is listed twice, a class or group without a name; on reading, a
            damaged file.
    """

    def __init__(
        self,
        folder: Path,
        examples: Sequence[Example],
        size: int,
        classes: Sequence[str],
        group_names: Sequence[str],
        group_ratios: Sequence[float] | None = None,
        masks: Segmentations | None = None,
    ) -> None:
        kind = type(self).__name__
        if size < 1:
            raise ValueError(f"{kind}: size must be at least 1 pixel, got {size}.")
        if not examples:
            raise FileNotFoundError(f"{kind}: {folder} holds no photograph of this split.")
        if len({example.path for example in examples}) < len(examples):
            raise ValueError(f"{kind}: {folder} lists a photograph more than once; every one must be counted once.")
        for example in examples:
            if not 0 <= example.label < len(classes) or not 0 <= example.group < len(group_names):
                found = f"class {example.label} and group {example.group}"
                raise ValueError(f"{kind}: {example.path} has {found} of {len(classes)} and {len(group_names)}.")
        self.classes, self.group_names = tuple(classes), tuple(group_names)
        self.group_ratios = None if group_ratios is None else tuple(group_ratios)
        self.image_size, self.max_objects = (size, size), 1
        self.masks_from = None if masks is None else {"class": class_path(masks), **plain_attributes(masks)}
        self.examples_sha256 = _digest(folder, examples)
        """Of relative paths, file sizes, classes and groups: says which set this is, wherever it lies."""
        self._examples, self._masks = tuple(examples), masks

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Item:
        example, size = self._examples[index], self.image_size[0]
        image = read_image(example.path)
        item = {"images": torch.from_numpy(center_image(image, size))}
        if self._masks is not None:
            labels = self._masks.segmentation(example.path)
            item["segmentation"] = torch.from_numpy(center_labels(labels, image, size, example.path))
        known = {"class": torch.tensor([example.label]), "group": torch.tensor([example.group])}
        return {**item, "visible": torch.ones(1, dtype=torch.bool), **known}

    def path(self, index: int) -> Path:
        """The photograph of an item: no two items have the same."""
        return self._examples[index].path


def photographs(folder: Path) -> list[Path]:
    """Every JPEG and PNG below a folder, in the order of their paths, hidden files left out.

    Raises:
        FileNotFoundError: no such folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; see the layout in the data set's card.")
    named = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.name[0] != ".")
    found = sorted(path for path in named if path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(EXTENSIONS)}), nor do its subfolders.")
    return found


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, hidden ones left out.

    Raises:
        FileNotFoundError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; see the layout in the data set's card.")
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not found:
        raise FileNotFoundError(f"{folder} holds no folders; there must be one per class or group.")
    return found


def _digest(folder: Path, examples: Sequence[Example]) -> str:
    lines = []
    for example in examples:
        if not example.path.is_file():
            raise FileNotFoundError(f"{example.path} is listed but not there; restore the photograph.")
        name, size = example.path.relative_to(folder).as_posix(), example.path.stat().st_size
        lines.append(f"{name} {size} {example.label} {example.group}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()

"""Any folder of images as a data set, with segmentations where somebody knows them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.utils.data import Dataset

from ocl.data.scenes import Item
from ocl.describe import class_path, plain_attributes
from ocl.masks.files import DEEP
from ocl.masks.label_maps import LARGEST

EXTENSIONS = (".jpg", ".jpeg", ".png")


class Segmentations(ABC):
    """Where segmentations come from."""

    @abstractmethod
    def segmentation(self, image: Path) -> NDArray[np.integer[Any]]:
        """(H W) label map of the image in this file, as large as the image: 0 background, -1 unknown."""


class ImageFolder(Dataset[Item]):
    """Every JPEG and PNG below a folder, in the order of their relative paths.

    Items: "images" (3 S S) uint8, short side resized to S and the centre cut out; with `masks` also "segmentation"
    (S S) int32 of the same pixels, nearest neighbour.

    Args:
        folder: searched recursively.
        size: S in pixels.
        masks: gives the label map of an image file.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: a size below 1; on reading, a damaged file or a label map of another size than its image.
    """

    def __init__(self, folder: str | Path, size: int = 224, masks: Segmentations | None = None) -> None:
        if size < 1:
            raise ValueError(f"ImageFolder: size must be at least 1 pixel, got {size}.")
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give one that holds images.")
        paths = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
        self._paths = sorted(path for path in paths if path.is_file())
        if not self._paths:
            raise FileNotFoundError(f"{folder} holds no image ({', '.join(EXTENSIONS)}), nor do its subfolders.")
        self._masks = masks
        self.masks_from = None if masks is None else {"class": class_path(masks), **plain_attributes(masks)}
        self.image_size = (size, size)
        self.files_sha256 = files_digest(folder, self._paths)
        """Of relative paths and file sizes: says which images these are, wherever they lie."""

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Item:
        path = self._paths[index]
        image = read_image(path)
        item = {"images": torch.from_numpy(center_image(image, self.image_size[0]))}
        if self._masks is not None:
            labels = self._masks.segmentation(path)
            item["segmentation"] = torch.from_numpy(center_labels(labels, image, self.image_size[0], path))
        return item

    def path(self, index: int) -> Path:
        """The file of an item."""
        return self._paths[index]


def read_image(path: Path) -> Image.Image:
    """The image in RGB, upright as its EXIF data say; 16 bits to 8 by range, transparency on white, grey as colour.

    Raises:
        ValueError: not a readable image, or pixels that are floating or of 32 bits, whose range nobody knows.
    """
    try:
        with Image.open(path) as file:
            image: Image.Image = ImageOps.exif_transpose(file)
            if image.mode in DEEP:
                values = np.asarray(image).astype(np.int64)
                if values.min() < 0 or values.max() > LARGEST:
                    raise ValueError("its pixels have 32 bits and no known range")
                image = Image.fromarray((values / 257).round().astype(np.uint8))
            elif image.mode == "F":
                raise ValueError("its pixels are floating and have no known range")
            elif image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return image.convert("RGB")
    except Exception as error:  # decoders of damaged bytes raise what they like, such as struct.error
        raise ValueError(f"{path} is not a readable image ({error}); replace or delete it.") from error


def center_image(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """(3 S S) of the largest centred square, antialiased bicubic."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def center_labels(
    labels: NDArray[np.integer[Any]], image: Image.Image, size: int, path: Path | str
) -> NDArray[np.int32]:
    """(H W) -> (S S): at every pixel of `center_image` the label at its centre.

    Raises:
        ValueError: the labels are not as large as the image of `path`.
    """
    if labels.shape != (image.height, image.width):
        expected = (image.height, image.width)
        raise ValueError(f"The segmentation of {path} is {labels.shape}, its image {expected}; they must be the same.")
    side = min(labels.shape)
    top, left = (labels.shape[0] - side) // 2, (labels.shape[1] - side) // 2
    pick = ((np.arange(size) + 0.5) * side / size).astype(np.int64)
    return labels[np.ix_(top + pick, left + pick)].astype(np.int32)


def files_digest(folder: Path, paths: list[Path]) -> str:
    """SHA-256 of relative paths and file sizes."""
    lines = [f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()

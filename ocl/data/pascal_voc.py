"""PASCAL VOC segmentation, alone or with the outlines of SBD for more training photographs ("trainaug").

Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 2010; Hariharan et al., Semantic Contours from
Inverse Detectors, ICCV 2011.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from ocl.data.segmented_images import SegmentedImages, read_indices
from ocl.shapes import IGNORE

SPLITS = ("train", "val", "trainval", "trainaug")
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BORDER = 255
DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MatReadError, zlib.error)


class PascalVOC(SegmentedImages):
    """Photographs with the objects of twenty classes; see `SegmentedImages` for the items.

    "class" (M) is 1..20, `CLASSES` gives the names. Maps are read as palette indices. Pixels of the border around
    objects, 255, are unknown (OCLF's choice; SPOT makes them background: `border=0`). "trainaug", published as 10,582
    photographs, is train and every photograph of SBD that is not in val: those of VOC with VOC's maps, the others with
    SBD's, which have no border.

    Args:
        folder: VOCdevkit/VOC2012 of the release (or VOC2007), with JPEGImages, SegmentationClass, SegmentationObject
            and ImageSets/Segmentation.
        split: "train", "val", "trainval" or "trainaug".
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        label_size: see `SegmentedImages`.
        border: label of the border, -1 or 0.
        sbd: for "trainaug", benchmark_RELEASE/dataset of SBD, with cls, inst, train.txt and val.txt.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: an unknown split or label, "trainaug" without `sbd` or, on reading, a damaged file, maps that
            contradict each other or too many objects.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "train",
        size: int = 224,
        max_objects: int = 64,
        label_size: int | None = None,
        border: int = IGNORE,
        sbd: str | Path | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"PASCAL VOC has the splits {', '.join(SPLITS)}, not {split!r}.")
        if border not in (IGNORE, 0):
            raise ValueError(f"border is {IGNORE} or 0, got {border}.")
        if (split == "trainaug") != (sbd is not None):
            raise ValueError(f'sbd names the folder of SBD for the split "trainaug", and for no other, got {split!r}.')
        folder = Path(folder)
        self._own, self._sbd = folder, Path(sbd) if sbd is not None else None
        lists = folder / "ImageSets" / "Segmentation"
        names = _names(lists / f"{'train' if self._sbd else split}.txt")
        self._from_sbd: set[str] = set()
        if self._sbd is not None:
            outlined = {name for part in ("train", "val") for name in _names(self._sbd / f"{part}.txt")}
            self._from_sbd = outlined - set(names) - set(_names(lists / "val.txt"))
        paths = [folder / "JPEGImages" / f"{name}.jpg" for name in sorted({*names, *self._from_sbd})]
        absent = next((photograph for photograph in paths if not photograph.is_file()), None)
        if absent is not None or not paths:
            missing = f"{lists} lists no photograph" if absent is None else f"{absent} is missing"
            raise FileNotFoundError(f"{missing}; unpack the whole release of PASCAL VOC.")
        super().__init__(folder, paths, size, max_objects, label_size)
        self.split, self.border = split, border

    def segments(self, index: int) -> NDArray[np.int64]:
        name = self.path(index).stem
        if name in self._from_sbd:
            return _sbd_segments(self._sbd / "inst" / f"{name}.mat")  # type: ignore[operator]
        path = self._own / "SegmentationObject" / f"{name}.png"
        instances, classes = read_indices(path), read_indices(self._own / "SegmentationClass" / f"{name}.png")
        if instances.shape != classes.shape:
            raise ValueError(f"{path} is {instances.shape}, the map of classes {classes.shape}; restore both.")
        border = (instances == BORDER) | (classes == BORDER)
        inside = ~border & (instances > 0)
        strange = classes[inside & ((classes < 1) | (classes > len(CLASSES)))]
        if len(strange):
            raise ValueError(
                f"{path} shows an object whose class is {strange[0]}, not 1..{len(CLASSES)}; restore both."
            )
        return np.where(border, self.border, np.where(inside, classes * 256 + instances, 0))

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"class": numbers // 256}


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the folder that the card of PASCAL VOC describes.")
    return path.read_text().split()


def _sbd_segments(path: Path) -> NDArray[np.int64]:
    """Class * 256 + instance from SBD's MATLAB file: a map of instances, and the class of each."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; restore SBD.")
    try:
        truth: Any = loadmat(path)["GTinst"][0, 0]
        instances = np.asarray(truth["Segmentation"], np.int64)
        classes = np.append(0, np.asarray(truth["Categories"], np.int64).flatten())
        numbers = np.where(instances > 0, classes[instances] * 256 + instances, 0)
    except DAMAGE as error:
        raise ValueError(f"{path} is not a file of instances of SBD ({error}); restore it.") from error
    if classes[1:].min(initial=1) < 1 or classes.max() > len(CLASSES) or instances.max(initial=0) >= BORDER:
        raise ValueError(f"{path} holds classes outside 1..{len(CLASSES)} or numbers above 254; restore it.")
    return numbers

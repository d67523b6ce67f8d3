"""COCO panoptic: every pixel in a segment, of a thing or of stuff (Kirillov et al., Panoptic Segmentation, 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.segmented_images import SegmentedImages, read_channels
from ocl.files import read_json
from ocl.shapes import IGNORE

SPLITS = ("train", "val")


class COCOPanoptic(SegmentedImages):
    """Photographs with the segments of things and of stuff; see `SegmentedImages` for the items.

    The colours of an annotation number its segments, R + 256 G + 65,536 B. Pixels of none (0, "void") and of crowds,
    which are several things in one segment, are unknown: label -1. "class" (M) is the category's id, "stuff" (M) bool
    says that a segment is no countable thing.

    Args:
        folder: holds `train2017`, `val2017` and `annotations`, with panoptic_val2017.json beside the unpacked folder
            panoptic_val2017.
        split: "train" or "val".
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.

    Raises:
        FileNotFoundError: a missing folder or file.
        ValueError: an unknown split, annotations in another form or, on reading, a damaged file or too many objects.
    """

    def __init__(self, folder: str | Path, split: str = "val", size: int = 224, max_objects: int = 256) -> None:
        if split not in SPLITS:
            raise ValueError(f"COCO panoptic has the splits {', '.join(SPLITS)}, not {split!r}.")
        folder, name = Path(folder), f"panoptic_{split}2017"
        path = folder / "annotations" / f"{name}.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; unpack the panoptic annotations there.")
        self._maps = folder / "annotations" / name
        content = read_json(path)
        try:
            self.class_names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            self._stuff = np.array([int(entry["id"]) for entry in content["categories"] if not entry["isthing"]])
            photographs = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
            entries = sorted(content["annotations"], key=lambda entry: photographs[int(entry["image_id"])])
            names = [photographs[int(entry["image_id"])] for entry in entries]
            self._files = [str(entry["file_name"]) for entry in entries]
            self._segments = [_table(entry["segments_info"]) for entry in entries]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path} is not in the form of COCO panoptic ({error!r}); restore it.") from error
        paths = [folder / f"{split}2017" / name for name in names]
        absent = next((photograph for photograph in paths if not photograph.is_file()), None)
        if absent is not None or not paths:
            missing = f"{path} lists no photograph" if absent is None else f"{absent} is missing"
            raise FileNotFoundError(f"{missing}; unpack the photographs beside the annotations.")
        super().__init__(folder, paths, size, max_objects)
        self.split, self.annotation_bytes = split, path.stat().st_size

    def segments(self, index: int) -> NDArray[np.int64]:
        path = self._maps / self._files[index]
        numbers = read_channels(path) @ np.array([1, 256, 65_536])
        known, _, crowd = self._segments[index]
        strange = np.setdiff1d(numbers, np.append(known, 0))
        if len(strange):
            raise ValueError(f"{path} shows segment {strange[0]}, which its annotation does not list; restore both.")
        return np.where((numbers == 0) | np.isin(numbers, known[crowd]), IGNORE, numbers)

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        known, categories, _ = self._segments[index]
        classes = categories[np.searchsorted(known, numbers)]
        return {"class": classes, "stuff": np.isin(classes, self._stuff)}


def _table(segments: list[dict[str, Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Numbers (m), rising, categories (m) and whether a crowd (m), of an annotation's segments."""
    rows = sorted((int(entry["id"]), int(entry["category_id"]), bool(entry["iscrowd"])) for entry in segments)
    numbers, categories, crowd = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(numbers, np.int64), np.array(categories, np.int64), np.array(crowd, np.bool_)

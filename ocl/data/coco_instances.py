"""COCO instances: outlines of the countable things in everyday photographs (Lin et al., Microsoft COCO, ECCV 2014)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.coco_annotations import code_of, painted
from ocl.data.segmented_images import SegmentedImages
from ocl.files import read_json
from ocl.shapes import IGNORE

SPLITS = ("train", "val")


class COCOInstances(SegmentedImages):
    """Photographs with the masks of their things; everything else is background. See `SegmentedImages` for the items.

    "class" (M) is the category's id, with gaps, up to 90. Masks overlap and crowds are several things in one, and
    publications differ in what they make of that, so that figures of mBO and FG-ARI differ too:

        overlap       -1 (OCLF, so DINOSAUR and FT-DINOSAUR) | 0 background (SPOT)
        crowd          0 background (OCLF, VideoSAUR: annotations of crowds are dropped) | None an object (SPOT)

    Here the defaults say that nobody knows: -1 and -1. A pixel of two objects is neither's; a pixel of an object and a
    crowd is the object's.

    Args:
        folder: holds `train2017`, `val2017` and `annotations` with instances_val2017.json.
        split: "train" or "val".
        size: S in pixels; short side resized to S, centre cut out.
        max_objects: M.
        label_size: see `SegmentedImages`.
        overlap: label of the pixels of several objects, -1 or 0.
        crowd: label of the pixels of crowds, -1 or 0; None makes every crowd an object.

    Raises:
        FileNotFoundError: a missing file.
        ImportError: pycocotools, which draws polygons, is not installed (on reading).
        ValueError: an unknown split or label, annotations in another form or, on reading, a damaged file or too many
            objects.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "val",
        size: int = 224,
        max_objects: int = 100,
        label_size: int | None = None,
        overlap: int = IGNORE,
        crowd: int | None = IGNORE,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"COCO has the splits {', '.join(SPLITS)}, not {split!r}.")
        if overlap not in (IGNORE, 0) or crowd not in (IGNORE, 0, None):
            raise ValueError(f"overlap is {IGNORE} or 0, crowd {IGNORE}, 0 or null, got {overlap} and {crowd}.")
        folder = Path(folder)
        path = folder / "annotations" / f"instances_{split}2017.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; unpack the annotations of 2017 there.")
        content = read_json(path)
        try:
            self.class_names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            images = sorted(content["images"], key=lambda image: str(image["file_name"]))
            names = [str(image["file_name"]) for image in images]
            self._shapes = [(int(image["height"]), int(image["width"])) for image in images]
            by_image: dict[int, list[Any]] = {int(image["id"]): [] for image in images}
            for entry in content["annotations"]:
                kept = [int(entry["category_id"]), int(bool(entry["iscrowd"])), entry["segmentation"]]
                by_image[int(entry["image_id"])].append(kept)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not in the form of COCO instances ({error!r}); restore it.") from error
        # As text: lists of all corners of all outlines would take several times the memory, in every worker.
        self._entries = [json.dumps(by_image[int(image["id"])], separators=(",", ":")).encode() for image in images]
        paths = [folder / f"{split}2017" / name for name in names]
        absent = next((photograph for photograph in paths if not photograph.is_file()), None)
        if absent is not None or not paths:
            missing = f"{path} lists no photograph" if absent is None else f"{absent} is missing"
            raise FileNotFoundError(f"{missing}; unpack the photographs beside the annotations.")
        super().__init__(folder, paths, size, max_objects, label_size)
        self.split, self.overlap, self.crowd = split, overlap, crowd
        self.annotation_bytes = path.stat().st_size

    def segments(self, index: int) -> NDArray[np.int64]:
        shape, entries = self._shapes[index], self._read(index)
        try:
            codes = [code_of(segmentation, *shape) for _, _, segmentation in entries]
            counts = [not crowd or self.crowd is None for _, crowd, _ in entries]
            objects = [number for number, is_object in enumerate(counts, start=1) if is_object]
            crowds = [code for code, is_object in zip(codes, counts, strict=True) if not is_object]
            chosen = [codes[number - 1] for number in objects]
            return painted(chosen, objects, shape, self.overlap, crowds, self.crowd or 0)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The annotations of {self.path(index)} hold a damaged mask ({error}); restore them."
            ) from error

    def attributes(self, index: int, numbers: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        classes = np.array([entry[0] for entry in self._read(index)], np.int64)
        return {"class": classes[numbers - 1]}

    def _read(self, index: int) -> list[Any]:
        """[category, crowd, segmentation] of every annotation of a photograph; objects are numbered by them, from 1."""
        entries: list[Any] = json.loads(self._entries[index])
        return entries

"""Masks in COCO's JSON: instances with run-length codes or polygons, of all images in one file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ocl.files import read_json, write_text
from ocl.masks import rle
from ocl.masks.base import Masks
from ocl.masks.label_maps import paint
from ocl.shapes import IGNORE

Record = dict[str, Any]
"""One image: "file_name", "height", "width" and "annotations", which lack only their ids."""


def record(name: str, masks: Masks) -> Record:
    """The valid masks of one image (1 K H W), bool, as COCO's annotations, each with its "score".

    Raises:
        ValueError: more than one image, soft masks, or scores that are not finite.
    """
    if len(masks) != 1 or masks.masks.dtype != torch.bool:
        found = f"{tuple(masks.masks.shape)} {masks.masks.dtype}"
        raise ValueError(f"A record holds the masks (1, K, H, W) bool of one image, got {found}.")
    if not masks.scores[masks.valid].isfinite().all():
        raise ValueError(f"The masks of {name} have scores that are NaN or infinite, which JSON cannot hold.")
    codes = rle.encode(masks.masks[0][masks.valid[0]])
    numbers = zip(rle.areas(codes).tolist(), rle.boxes(codes).tolist(), masks.scores[masks.valid].tolist(), strict=True)
    annotations = [
        {"category_id": 1, "iscrowd": 0, "area": area, "bbox": box, "score": score, "segmentation": text}
        for text, (area, box, score) in zip(rle.compress(codes), numbers, strict=True)
    ]
    height, width = masks.masks.shape[2:]
    return {"file_name": name, "height": height, "width": width, "annotations": annotations}


def write_coco(path: str | Path, records: Iterable[Record]) -> Path:
    """Write one file for all images, whole or not at all; its only category is 1, "object"."""
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for entry in records:
        number = len(content["images"]) + 1
        content["images"].append({"id": number, **{key: entry[key] for key in ("file_name", "height", "width")}})
        for annotation in entry["annotations"]:
            content["annotations"].append({"id": len(content["annotations"]) + 1, "image_id": number, **annotation})
    return write_text(path, json.dumps(content) + "\n")  # not indented: a line for every number would be most of it


class CocoFile:
    """The images and instances of a COCO file.

    Polygons are rasterised by pycocotools (extra `coco`); run-length codes need nothing else. Images are asked for by
    their "file_name".

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, not COCO's instances, or two images of one name or id.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        content = read_json(path)
        try:
            self._images = {str(image["file_name"]): image for image in content["images"]}
            self._annotations: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in content["images"]}
            for annotation in content["annotations"]:
                self._annotations[annotation["image_id"]].append(annotation)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} holds no instances in COCO's format ({error!r}); restore it.") from error
        if not len(self._images) == len(self._annotations) == len(content["images"]):
            raise ValueError(f"{path} lists two images with one file_name or id; give every image its own.")

    @property
    def names(self) -> list[str]:
        return list(self._images)

    def masks(self, name: str, crowds: bool = False) -> Masks:
        """(1 K H W) bool: the instances of an image in the order of the file, with their "score" or 1.

        crowds: give the regions of crowds ("iscrowd") instead, which are no instances.

        Raises:
            ValueError: no such image, or segmentations that are damaged or of another size than the image.
        """
        if name not in self._images:
            raise ValueError(f"{self.path} knows no image {name}; it has {', '.join(self.names[:3]) or 'none'}, ...")
        image = self._images[name]
        chosen = [entry for entry in self._annotations[image["id"]] if bool(entry.get("iscrowd", 0)) == crowds]
        try:
            size = (int(image["height"]), int(image["width"]))
            scores = torch.tensor([float(entry.get("score", 1.0)) for entry in chosen])
            codes = [_code(entry["segmentation"], size) for entry in chosen]
            stack = rle.decode(codes) if codes else torch.zeros(0, *size, dtype=torch.bool)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.path} holds a damaged segmentation of {name}: {error}") from error
        return Masks.of(stack.unsqueeze(0), scores.unsqueeze(0))

    def segmentation(self, name: str) -> Tensor:
        """(H W) int64: 0 background, k + 1 instance k (the highest score wins), `IGNORE` crowds."""
        labels = paint(self.masks(name))[0]
        crowd = self.masks(name, crowds=True).masks[0].any(dim=0)
        return labels.masked_fill(crowd & (labels == 0), IGNORE)


def _code(segmentation: Any, size: tuple[int, int]) -> rle.RLE:
    if isinstance(segmentation, Mapping):
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"a mask is {tuple(segmentation['size'])}, its image {size}; they must be the same.")
        return dict(segmentation)
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise ImportError("Polygons need pycocotools: pip install 'ocl-research[coco]'.") from error
    polygons = [np.asarray(polygon, dtype=np.float64).tolist() for polygon in segmentation]
    if not polygons or any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs x and y of at least three corners.")
    merged: rle.RLE = coco.merge(coco.frPyObjects(polygons, *size))
    return merged

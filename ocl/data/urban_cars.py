"""UrbanCars (Li et al., A Whac-A-Mole Dilemma, CVPR 2023): cars with two shortcuts, the background and an object."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from ocl.data.bsds500 import DAMAGE
from ocl.data.class_names import ClassNames
from ocl.data.grouped_images import Example, GroupedImages, photographs, subfolders
from ocl.data.images import Segmentations, read_image

SIDES = ("urban", "country")
CLASSES = tuple(f"{side} car" for side in SIDES)
GROUPS = tuple(f"{car} car, {behind} background, {beside} object" for car, behind, beside in product(SIDES, repeat=3))
RATIOS = {"train": 0.95, "val": 0.5, "test": 0.5}
"""Share of a split's cars on their own background, and beside their own object."""


class UrbanCars(GroupedImages):
    """Two classes and eight groups, 4 * car + 2 * background + co-occurring object, each 0 urban or 1 country.

    The splits val and test hold the groups equally often; `group_ratios` are those of the training split (95 % on
    their own background, 95 % beside their own object), for in-distribution accuracy. Folders are read as the
    generator writes them (`bg-0.5_co_occur_obj-0.5/test/obj-urban_bg-urban_co_occur_obj-urban`) or as OCCAM's
    repository keeps them (`test/110`: 100 * car + 10 * background + object).

    Args:
        folder: which holds the splits, `urbancars` of the generator or `UrbanCars` of the archive.
        split: "train", "val" or "test".
        size: S in pixels; short side resized to S, centre cut out.
        masks: `CarMasks` reads what the generator writes beside every photograph.

    Raises:
        FileNotFoundError: the folder, a group or its photographs are not there.
        ValueError: an unknown split, or a folder that is no group; on reading, a damaged photograph.
    """

    def __init__(
        self, folder: str | Path, split: str = "test", size: int = 224, masks: Segmentations | None = None
    ) -> None:
        if split not in RATIOS:
            raise ValueError(f"UrbanCars has the splits {', '.join(RATIOS)}, not {split!r}.")
        root = Path(folder)
        generated = root / f"bg-{RATIOS[split]}_co_occur_obj-{RATIOS[split]}" / split
        place = generated if generated.is_dir() else root / split
        examples = []
        for part in subfolders(place):
            group = group_of(part)
            files = [path for path in photographs(part) if not path.stem.endswith("_mask")]
            examples += [Example(path, group // 4, group) for path in files]
        found = {example.group for example in examples}
        if missing := [name for group, name in enumerate(GROUPS) if group not in found]:
            raise FileNotFoundError(
                f"{place} holds no photograph of {missing[0]}; all {len(GROUPS)} groups must be there."
            )
        super().__init__(root, examples, size, CLASSES, GROUPS, in_distribution(RATIOS["train"]), masks)
        self.split = split


class CarMasks(Segmentations):
    """The generator's own masks, beside every photograph: 1 the car, 2 the co-occurring object, 0 background.

    The masks are soft at their edges; a pixel belongs from one half on, which is this reader's choice. The car stands
    before the object.
    """

    def segmentation(self, image: Path) -> NDArray[np.integer[Any]]:
        car, beside = (self._mask(image, name) for name in ("mask", "co_occur_obj_mask"))
        if car.shape != beside.shape:
            raise ValueError(f"The masks of {image} are {car.shape} and {beside.shape}; they must be the same.")
        return np.where(car, 1, np.where(beside, 2, 0)).astype(np.int32)

    @staticmethod
    def _mask(image: Path, name: str) -> NDArray[np.bool_]:
        path = image.with_name(f"{image.stem}_{name}.png")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; generate UrbanCars again, or read it without masks.")
        return np.asarray(read_image(path).convert("L")) >= 128


class CarNames(ClassNames):
    """The 196 models of Stanford Cars ("AM General Hummer SUV 2000") as names of urban cars and of country cars.

    Args:
        cars_meta: `cars_meta.mat` of Stanford Cars' devkit, which names the models.
        body_types: `body_type.json` of UrbanCars' repository: for every model 0 urban or 1 country.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a damaged file, or lists that do not fit each other.
    """

    def __init__(self, cars_meta: str | Path, body_types: str | Path) -> None:
        models, sides = _models(Path(cars_meta)), _sides(Path(body_types))
        if len(models) != len(sides) or set(sides) != {0, 1}:
            found = f"{len(models)} models and {len(sides)} types {sorted(set(sides))}"
            raise ValueError(f"{cars_meta} and {body_types} must give every model a type 0 or 1, got {found}.")
        self._members = {
            name: [model for model, side in zip(models, sides, strict=True) if side == number]
            for number, name in enumerate(CLASSES)
        }

    @property
    def members(self) -> dict[str, list[str]]:
        return self._members


def group_of(folder: Path) -> int:
    """The number of the group that a folder is named for.

    Raises:
        ValueError: a name of another form.
    """
    if match := re.fullmatch(r"obj-(\w+?)_bg-(\w+?)_co_occur_obj-(\w+)", folder.name):
        if set(match.groups()) <= set(SIDES):
            car, behind, beside = (SIDES.index(side) for side in match.groups())
            return 4 * car + 2 * behind + beside
    elif re.fullmatch(r"[01]{1,3}", folder.name):
        return int(folder.name, 2)  # digits 0 and 1 that stand for hundreds, tens and ones
    raise ValueError(f"{folder} is no group of UrbanCars, such as 110 or obj-country_bg-country_co_occur_obj-urban.")


def in_distribution(ratio: float) -> list[float]:
    """(8) shares of the groups where that share of the cars has its own background, and of those its own object."""
    sides = product((0, 1), repeat=3)
    return [_own(car, behind, ratio) * _own(car, beside, ratio) / 2 for car, behind, beside in sides]


def _own(car: int, other: int, ratio: float) -> float:
    return ratio if car == other else 1 - ratio


def _models(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give cars_meta.mat of Stanford Cars' devkit.")
    try:
        names: Any = loadmat(path, squeeze_me=True)["class_names"]
        return [str(name) for name in np.atleast_1d(names)]
    except DAMAGE as error:
        raise ValueError(f"{path} is not cars_meta.mat of Stanford Cars' devkit ({error}); restore it.") from error


def _sides(path: Path) -> list[int]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give body_type.json of UrbanCars' repository.")
    try:
        return [int(side) for side in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not body_type.json of UrbanCars ({error}); restore it.") from error

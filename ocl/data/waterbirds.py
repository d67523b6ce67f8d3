"""Waterbirds (Sagawa, Koh, Hashimoto, Liang, ICLR 2020): birds of CUB-200-2011 on backgrounds of Places."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocl.data.class_names import ClassNames
from ocl.data.grouped_images import Example, GroupedImages, photographs, subfolders
from ocl.data.images import Segmentations, files_digest, read_image

CLASSES = ("landbird", "waterbird")
GROUPS = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")
SPLITS = {"train": 0, "val": 1, "test": 2}
METADATA = "metadata.csv"
BITS = ("0", "1")
COLUMNS = ("img_filename", "y", "split", "place")
NO_WATERBIRDS = ("Eastern_Towhee", "Western_Meadowlark", "Western_Wood_Pewee")
"""Land birds that the release calls water birds: the names of water birds were looked for inside the names of species,
and "eastern" and "western" hold a "tern"."""


@dataclass(frozen=True)
class Bird:
    """A line of metadata.csv: file relative to the folder, species as CUB writes it, 1 where it is a water bird, 1
    where the background is water, split as in `SPLITS`."""

    file: str
    species: str
    water_bird: int
    on_water: int
    split: int


class Waterbirds(GroupedImages):
    """The release: two classes, four groups (2 * class + background), `group_ratios` those of its training split.

    Args:
        folder: the release's, waterbird_complete95_forest2water2, with `metadata.csv` and one folder per species.
        split: "train", "val" or "test".
        size: S in pixels; short side resized to S, centre cut out.
        corrected: count three species of land birds as what they are; see `NO_WATERBIRDS`. The default, the labels of
            the release, is what published figures are on. Read the names alike: `BirdNames(corrected=True)`.
        masks: `BirdSegmentations` knows where the birds are.

    Raises:
        FileNotFoundError: no such folder, no metadata.csv in it, or a photograph that it lists is missing.
        ValueError: an unknown split, or a metadata.csv of another form; on reading, a damaged photograph.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str = "test",
        size: int = 224,
        corrected: bool = False,
        masks: Segmentations | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"Waterbirds has the splits {', '.join(SPLITS)}, not {split!r}.")
        root = Path(folder)
        birds = read_metadata(root, corrected)
        examples = [
            Example(root / bird.file, bird.water_bird, _group(bird)) for bird in birds if bird.split == SPLITS[split]
        ]
        trained = Counter(_group(bird) for bird in birds if bird.split == SPLITS["train"])
        ratios = [trained[group] / trained.total() for group in range(len(GROUPS))] if trained else None
        super().__init__(root, examples, size, CLASSES, GROUPS, ratios, masks)
        self.split, self.corrected = split, corrected


class WaterbirdGroups(GroupedImages):
    """The test split as OCCAM's repository keeps it: a folder per group, in it a folder per class, 0 and 1.

    The folders are `test_split/group_0` to `group_3`, of foregrounds `FG-Only/test_split/group_0` and so on (its
    archive), or `landbird_on_land` and so on, of foregrounds `landbird_on_land_fg_only` (its later form). Species are
    not known here, so labels are those of the release.

    Args:
        folder: which holds them, `Waterbirds` in the archive.
        size: S in pixels; short side resized to S, centre cut out.
        foreground: the bird alone, from the set's own masks: what a perfect source of masks would show.

    Raises:
        FileNotFoundError: the folder, a group or its photographs are not there.
        ValueError: a class folder that does not belong to its group; on reading, a damaged photograph.
    """

    def __init__(self, folder: str | Path, size: int = 224, foreground: bool = False) -> None:
        root = Path(folder)
        examples = []
        for group, place in enumerate(_group_folders(root, foreground)):
            label = group // 2
            for other in subfolders(place):
                if other.name != str(label) and any(other.iterdir()):
                    raise ValueError(f"{other} should be {label}, the class of {GROUPS[group]}; check the layout.")
            examples += [Example(path, label, group) for path in photographs(place / str(label))]
        super().__init__(root, examples, size, CLASSES, GROUPS)
        self.foreground = foreground


class BirdSegmentations(Segmentations):
    """Where the birds of the release are, from the segmentations of CUB-200-2011: 1 the bird, 0 background.

    The release blends bird and background by these maps, whose greys say how many annotators saw the bird there; a
    pixel is the bird's from one half on, which is this reader's choice.

    folder: `segmentations` of CUB-200-2011, one folder per species.
    """

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"{folder} is not a folder; give `segmentations` of CUB-200-2011.")
        self._folder = Path(folder)
        self.files_sha256 = files_digest(self._folder, sorted(self._folder.rglob("*.png")))

    def segmentation(self, image: Path) -> NDArray[np.integer[Any]]:
        path = self._folder / image.parent.name / f"{image.stem}.png"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; restore the segmentations of CUB-200-2011.")
        return (np.asarray(read_image(path).convert("L")) >= 128).astype(np.int32)


class BirdNames(ClassNames):
    """The species that metadata.csv lists, as names of land birds and of water birds ("black footed albatross").

    Args:
        folder: the release's, with metadata.csv; the whole of it names 200 species.
        corrected: as in `Waterbirds`.

    Raises:
        FileNotFoundError, ValueError: as `Waterbirds`; a species of both kinds, or none of one kind.
    """

    def __init__(self, folder: str | Path, corrected: bool = False) -> None:
        self.corrected = corrected
        kinds: dict[str, int] = {}
        for bird in sorted(read_metadata(Path(folder), corrected), key=lambda bird: bird.file):
            if kinds.setdefault(bird.species, bird.water_bird) != bird.water_bird:
                raise ValueError(f"{Path(folder) / METADATA} calls {bird.species} a land bird and a water bird.")
        if len(set(kinds.values())) < len(CLASSES):
            raise ValueError(f"{Path(folder) / METADATA} must name land birds and water birds; it has one kind only.")
        self._members = {
            name: [species.replace("_", " ").lower() for species, water in kinds.items() if water == kind]
            for kind, name in enumerate(CLASSES)
        }

    @property
    def members(self) -> dict[str, list[str]]:
        return self._members


def read_metadata(folder: Path, corrected: bool = False) -> list[Bird]:
    """The lines of metadata.csv in a folder; see `Waterbirds` for `corrected`.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a missing column, or a line with something else than numbers 0 or 1 and a file in a species' folder.
    """
    path = folder / METADATA
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give the folder of the release, which holds {METADATA}.")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not a table ({error}); restore the release's.") from error
    if missing := [name for name in COLUMNS if not lines or name not in lines[0]]:
        raise ValueError(f"{path} has no column {missing[0]}, or no lines; restore the release's.")
    return [_bird(path, number, line, corrected) for number, line in enumerate(lines, 2)]


def _bird(path: Path, number: int, line: dict[str, str], corrected: bool) -> Bird:
    name = re.fullmatch(r"\d+\.([^/]+)/[^/]+", line["img_filename"] or "")
    if name is None or line["y"] not in BITS or line["place"] not in BITS or line["split"] not in (*BITS, "2"):
        found = ", ".join(f"{column} {line[column]}" for column in COLUMNS)
        raise ValueError(f"{path}, line {number} is no bird of the release: {found}.")
    wrong = corrected and name[1] in NO_WATERBIRDS
    water_bird = 0 if wrong else int(line["y"])
    return Bird(line["img_filename"], name[1], water_bird, int(line["place"]), int(line["split"]))


def _group(bird: Bird) -> int:
    return 2 * bird.water_bird + bird.on_water


def _group_folders(root: Path, foreground: bool) -> list[Path]:
    numbered = root / "FG-Only" / "test_split" if foreground else root / "test_split"
    if numbered.is_dir():
        return [numbered / f"group_{group}" for group in range(len(GROUPS))]
    suffix = "_fg_only" if foreground else ""
    named = [root / f"{name.replace(' ', '_')}{suffix}" for name in GROUPS]
    if not named[0].is_dir():
        raise FileNotFoundError(f"{root} holds neither {numbered.relative_to(root)} nor {named[0].name}.")
    return named

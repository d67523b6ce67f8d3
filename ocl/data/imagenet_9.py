"""ImageNet-9 and its changed backgrounds (Xiao, Engstrom, Ilyas, Madry, Noise or Signal, ICLR 2021)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ocl.data.class_names import ClassNames, imagenet_names
from ocl.data.grouped_images import Example, GroupedImages, photographs, subfolders

CLASSES = (
    "dog",
    "bird",
    "wheeled vehicle",
    "reptile",
    "carnivore",
    "insect",
    "musical instrument",
    "primate",
    "fish",
)


class ImageNet9(GroupedImages):
    """Nine classes of animals and things, the background changed in one way or another. A group is a class here.

    Args:
        folder: the release's (`bg_challenge`), with one folder per variation.
        variation: "mixed_rand" has the background of a random class, "mixed_same" of the same class, "original" its
            own; "only_fg" is the object alone; or any other folder of the release.
        split: "val"; the separate archives of training data also have "train".
        size: S in pixels; short side resized to S, centre cut out.

    Raises:
        FileNotFoundError: the folder, the variation, the split or a class is not there.
        ValueError: a folder that is no class; on reading, a damaged photograph.
    """

    def __init__(self, folder: str | Path, variation: str = "mixed_rand", split: str = "val", size: int = 224) -> None:
        place = Path(folder) / variation / split
        names = [f"{number:02d}_{name}" for number, name in enumerate(CLASSES)]
        if unknown := [part for part in subfolders(place) if part.name not in names]:
            raise ValueError(f"{unknown[0]} is no class of ImageNet-9, such as {names[2]}.")
        examples = [
            Example(path, number, number) for number, name in enumerate(names) for path in photographs(place / name)
        ]
        super().__init__(place, examples, size, CLASSES, CLASSES)
        self.variation, self.split = variation, split


class ImageNet9Names(ClassNames):
    """The names of those of ImageNet's classes that belong to the nine.

    Args:
        mapping: `in_to_in9.json` of the release's repository: number of ImageNet's class -> 0 to 8, or -1 for none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another form.
        ImportError: open_clip, which has the names, is not installed.
    """

    def __init__(self, mapping: str | Path) -> None:
        self._members = imagenet_9_members(mapping, imagenet_names())

    @property
    def members(self) -> dict[str, list[str]]:
        return self._members


def imagenet_9_members(mapping: str | Path, names: Sequence[str]) -> dict[str, list[str]]:
    """The nine classes -> those of the 1,000 `names` of ImageNet's classes that belong to them: what `SuperClasses` of
    a classifier with these names needs. `mapping` as in `ImageNet9Names`."""
    path = Path(mapping)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give in_to_in9.json of the repository of ImageNet-9.")
    try:
        places = {int(number): int(place) for number, place in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not in_to_in9.json of ImageNet-9 ({error}); restore it.") from error
    numbers = [number for number in range(len(names)) if number in places]
    members = {
        kind: [names[number] for number in numbers if places[number] == place] for place, kind in enumerate(CLASSES)
    }
    known = len(numbers) == len(places) and set(places.values()) <= set(range(-1, len(CLASSES)))
    if not known or not all(members.values()):
        raise ValueError(f"{path} must give classes 0..{len(names) - 1} a place in -1..{len(CLASSES) - 1}, all used.")
    return members

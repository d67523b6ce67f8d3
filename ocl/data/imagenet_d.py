"""ImageNet-D (Zhang et al., Benchmarking Neural Network Robustness on Diffusion Synthetic Object, CVPR 2024)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ocl.data.class_names import ClassNames
from ocl.data.grouped_images import Example, GroupedImages, photographs, subfolders

SUBSETS = ("background", "texture", "material")


class ImageNetD(GroupedImages):
    """Things of ImageNet's kinds, drawn by a diffusion model with an unusual background, texture or material.

    A group is a subset. Classes are numbered by `names`, or else by the names of all class folders in all subsets that
    are there: then leave no subset out of the folder, or numbers and candidates change.

    Args:
        folder: the release's, with `background`, `texture` and `material`.
        subsets: which of them to read; OCCAM reports the first alone.
        size: S in pixels; short side resized to S, centre cut out.
        names: as in `ImageNetDNames`.

    Raises:
        FileNotFoundError: the folder, a subset or its photographs are not there.
        ValueError: an unknown subset, or a class folder that `names` does not have; on reading, a damaged photograph.
    """

    def __init__(
        self,
        folder: str | Path,
        subsets: Sequence[str] = ("background",),
        size: int = 224,
        names: str | Path | None = None,
    ) -> None:
        if not subsets or isinstance(subsets, str) or not set(subsets) <= set(SUBSETS):
            raise ValueError(f"ImageNetD has the subsets {', '.join(SUBSETS)}, not {subsets!r}; give a list of them.")
        root = Path(folder)
        classes = read_classes(root, names)
        number = {kind: place for place, kind in enumerate(classes)}
        examples = []
        for group, subset in enumerate(subsets):
            for part in subfolders(root / subset):
                if part.name not in number:
                    raise ValueError(f"{part} is no class of {names}.")
                examples += [Example(path, number[part.name], group) for path in photographs(part)]
        super().__init__(root, examples, size, list(classes.values()), subsets)


class ImageNetDNames(ClassNames):
    """The names of ImageNet-D's classes: one each, lower case.

    Args:
        folder: as in `ImageNetD`.
        names: `imgnet_d_dir2imgnet_d_id` of the release's repository, JSON of class folder -> [number, name], for
            the numbers and names of published figures ("mixing or salad bowl"). None: the names of the class folders.

    Raises:
        FileNotFoundError, ValueError: as `ImageNetD`.
    """

    def __init__(self, folder: str | Path, names: str | Path | None = None) -> None:
        self._names = list(read_classes(Path(folder), names).values())

    @property
    def members(self) -> dict[str, list[str]]:
        return {name: [name] for name in self._names}


def read_classes(folder: Path, names: str | Path | None = None) -> dict[str, str]:
    """Class folder -> name, in the order of the classes; see `ImageNetDNames`."""
    if names is None:
        if not (present := [folder / subset for subset in SUBSETS if (folder / subset).is_dir()]):
            raise FileNotFoundError(f"{folder} holds none of {', '.join(SUBSETS)}; give the folder of the release.")
        return {name: _plain(name) for name in sorted({part.name for subset in present for part in subfolders(subset)})}
    path = Path(names)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give imgnet_d_dir2imgnet_d_id of ImageNet-D's repository.")
    try:
        listed = {kind: (int(number), str(name)) for kind, (number, name) in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the list of ImageNet-D's classes ({error}); restore it.") from error
    return {kind: _plain(name) for kind, (_, name) in sorted(listed.items(), key=lambda entry: entry[1][0])}


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").replace("/", " or ").lower()

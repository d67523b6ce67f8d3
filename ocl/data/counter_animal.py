"""CounterAnimal (Wang et al., A Sober Look at the Robustness of CLIPs to Spurious Features, NeurIPS 2024)."""

from __future__ import annotations

import re
from pathlib import Path

from ocl.data.class_names import imagenet_synsets
from ocl.data.grouped_images import Example, GroupedImages, photographs, subfolders

GROUPS = ("common", "counter")


class CounterAnimal(GroupedImages):
    """Photographs of animals on backgrounds that CLIP models do well on ("common") or badly ("counter").

    Two groups; classes are ImageNet's 1,000, by synset id, of which the set holds 45. Report both groups: a gap also
    closes when the upper one falls. Folders are read as in the release (`LAION-final`: `80 black grouse/common-grass`)
    or as OCCAM's repository keeps them (`common/80`). A class folder's name begins with ImageNet's number.

    Args:
        folder: which holds the classes, or `common` and `counter`.
        size: S in pixels; short side resized to S, centre cut out.

    Raises:
        FileNotFoundError: the folder, a group or its photographs are not there.
        ValueError: a folder that is neither a class nor a group; on reading, a damaged photograph.
    """

    def __init__(self, folder: str | Path, size: int = 224) -> None:
        root = Path(folder)
        examples = []
        for outer in subfolders(root):
            for inner in subfolders(outer):
                kind, group = (inner, outer) if outer.name in GROUPS else (outer, inner)
                label, number = _class(kind), _group(group)
                examples += [Example(path, label, number) for path in photographs(inner)]
        if missing := [name for number, name in enumerate(GROUPS) if number not in {one.group for one in examples}]:
            raise FileNotFoundError(f"{root} holds no photographs of the group {missing[0]}; both must be there.")
        super().__init__(root, examples, size, imagenet_synsets(), GROUPS)


def _class(folder: Path) -> int:
    """ImageNet's number, which the name begins with."""
    match = re.match(r"\d+\b", folder.name)
    if match is None or int(match[0]) > 999:
        raise ValueError(
            f"{folder} is no class of CounterAnimal; its name must begin with ImageNet's number, 0 to 999."
        )
    return int(match[0])


def _group(folder: Path) -> int:
    kind = re.match("|".join(GROUPS), folder.name)
    if kind is None:
        raise ValueError(f"{folder} is no group of CounterAnimal; its name must begin with common or counter.")
    return GROUPS.index(kind[0])

"""Zero-shot classes of a data set, whose names come from its own files."""

from __future__ import annotations

from collections.abc import Sequence

from ocl.data.class_names import ClassNames
from ocl.masks.classifiers import SuperClasses
from ocl.masks.zero_shot import ClipImages, ZeroShotClassifier


class NamedClasses(SuperClasses):
    """Every name is asked for once; a class has the largest logit of the names that stand for it.

    Args:
        encoder: a CLIP-like model.
        names: which names stand for which class, in the order of the data set's labels.
        templates: see `ZeroShotClassifier`.
    """

    def __init__(self, encoder: ClipImages, names: ClassNames, templates: Sequence[str] = ("A photo of {}",)) -> None:
        members = names.members
        asked = list(dict.fromkeys(name for listed in members.values() for name in listed))
        super().__init__(ZeroShotClassifier(encoder, asked, templates), members)

"""Classes by the names that a zero-shot classifier is asked for: several names may stand for one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class ClassNames(ABC):
    """Where the names of a data set's classes come from, in the order of its labels."""

    @property
    @abstractmethod
    def members(self) -> dict[str, list[str]]:
        """Each class -> the names that stand for it. Classes that share a name are never told apart."""


class ImageNetNames(ClassNames):
    """The 1,000 classes of ImageNet (ILSVRC 2012) by synset id, each with the name that open_clip asks for.

    Two pairs share a name (657 and 744 are "missile", 836 and 837 "sunglasses"), so two classes are never answered.

    Raises:
        ImportError: open_clip is not installed.
    """

    @property
    def members(self) -> dict[str, list[str]]:
        return {synset: [name] for synset, name in zip(imagenet_synsets(), imagenet_names(), strict=True)}


def imagenet_names() -> list[str]:
    """The 1,000 names of ImageNet's classes as zero-shot classifiers are asked for them, after Radford et al., 2021."""
    try:
        from open_clip import IMAGENET_CLASSNAMES
    except ImportError as error:
        raise ImportError("ImageNet's names for prompts need open_clip: pip install 'ocl-research[clip]'.") from error
    return list(IMAGENET_CLASSNAMES)


def imagenet_synsets() -> list[str]:
    """The 1,000 synset ids of ImageNet's classes ("n01440764", ...), in the order of their numbers."""
    import timm.data  # here, since it takes seconds to import

    data: Any = timm.data
    return list(data.ImageNetInfo().label_names())

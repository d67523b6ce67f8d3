"""The classifiers of a study: the first one predicts, all of them together may score segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset

from ocl import checkpoints
from ocl.masks.apply import MaskApplication
from ocl.masks.classifiers import Classifier, TimmClassifier
from ocl.occam.training import Recipe, train


class Ensemble(Protocol):
    """E classifiers of the same classes and image size, which may depend on the seed of a study."""

    def __call__(self, application: MaskApplication, folder: Path, seed: int) -> Sequence[Classifier]:
        """`folder` is the seed's own and may keep what was trained."""
        ...


class Published:
    """Classifiers as they are, whatever the seed: zero-shot ones, timm's, fitted linear heads."""

    def __init__(self, classifiers: list[Classifier]) -> None:
        self.classifiers = classifiers

    def __call__(self, application: MaskApplication, folder: Path, seed: int) -> Sequence[Classifier]:
        return self.classifiers


class Trained:
    """Small classifiers trained from scratch on the images of a data set, each from weights and an order of its own.

    Member m of seed s has the seed s * members + m, so no two studies share one. A finished member is a checkpoint
    `folder`/member-<m>, which `ocl.checkpoints.load` reads.

    Args:
        dataset: what to train on; see `ocl.occam.training.train`.
        classes: C names.
        name: of a timm model; the default has 0.37 million weights.
        image_size: side of what it reads.
        members: E.
        recipe: how to train.
    """

    def __init__(
        self,
        dataset: Dataset,  # type: ignore[type-arg]  # jsonargparse offers no subclasses of a subscripted class
        classes: Sequence[str],
        name: str = "test_resnet",
        image_size: int = 48,
        members: int = 3,
        recipe: Recipe | None = None,
    ) -> None:
        if members < 1:
            raise ValueError(f"an ensemble has at least one member, got {members}.")
        self.dataset, self.classes, self.name, self.image_size = dataset, list(classes), name, image_size
        self.members, self.recipe = members, Recipe() if recipe is None else recipe

    def __call__(self, application: MaskApplication, folder: Path, seed: int) -> Sequence[Classifier]:
        return [self._member(application, folder / f"member-{m}", seed * self.members + m) for m in range(self.members)]

    def _member(self, application: MaskApplication, folder: Path, seed: int) -> Classifier:
        if (folder / checkpoints.CONFIG).is_file():
            stored = checkpoints.load(folder)
            assert isinstance(stored, Classifier)
            return stored
        arguments: dict[str, Any] = {
            "name": self.name,
            "classes": self.classes,
            "image_size": self.image_size,
            "pretrained": False,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = train(TimmClassifier(**arguments), self.dataset, application, self.recipe, folder, seed)
        tree = {"class_path": "ocl.masks.classifiers.TimmClassifier", "init_args": arguments}
        checkpoints.save(tree, classifier, folder, seed=seed)
        return classifier

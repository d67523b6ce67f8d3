"""Train a small classifier of whole images and of objects cut out of them; stopped, it goes on where it was."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ocl.data.collate import collate
from ocl.data.order import EpochBatches
from ocl.data.scenes import Item, read_items
from ocl.files import write_atomically
from ocl.masks.apply import MaskApplication
from ocl.masks.classifiers import TimmClassifier
from ocl.occam.labels import labels_of, main_object
from ocl.schedules import WarmupCosine
from ocl.shapes import Batch, images_as_float
from ocl.states import read_state

STATE = "training.pt"


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: AdamW on the cross-entropy.

    cut_out: share of a batch that shows its object alone, through the study's mask application; the others show the
        whole image. With 0, a classifier has never seen a segment, and masks are a shift of the images too.
    warmup_steps: before half a cosine takes the learning rate to 0 at the last step.
    checkpoint_every: steps between two states on disk, from which a stopped training goes on.
    """

    steps: int = 500
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    cut_out: float = 0.5
    warmup_steps: int = 50
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.cut_out <= 1:
            raise ValueError(f"cut_out is a share of the images, in [0, 1], got {self.cut_out}.")
        if min(self.steps, self.batch_size, self.checkpoint_every) < 1:
            raise ValueError("steps, batch_size and checkpoint_every must be at least 1.")


def train(
    classifier: TimmClassifier,
    dataset: Dataset[Item],
    application: MaskApplication,
    recipe: Recipe,
    folder: Path,
    seed: int = 0,
) -> TimmClassifier:
    """Fit all weights of `classifier` in place and leave it frozen again.

    Args:
        dataset: items with "class" (see `ocl.occam.labels`) and a segmentation in which label 1 is the object.
        folder: keeps the state of an unfinished training; removed from when done. The initial weights are those of
            `classifier`, the order of images is a function of `seed`: a resumed training gives the same weights.

    Raises:
        ValueError: a loss that is not finite, or labels outside the classes.
    """
    network: Any = classifier.encoder.model
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = WarmupCosine(recipe.steps, recipe.warmup_steps)
    batches = EpochBatches(len(dataset), recipe.batch_size, seed, int(getattr(dataset, "block", 1)))  # type: ignore[arg-type]
    step = _resume(folder / STATE, network, optimizer)
    while step < recipe.steps:
        batches.begin(*divmod(step, len(batches)))
        for indices in batches:
            pictures, labels = examples(collate(read_items(dataset, indices)), application, recipe.cut_out)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * schedule(step)
            loss = F.cross_entropy(classifier(pictures), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == recipe.steps or step % recipe.checkpoint_every == 0:
                if not math.isfinite(loss.item()):
                    raise ValueError(f"the loss is {loss.item()} at step {step}; lower the learning rate.")
                if step == recipe.steps:
                    break
                state = {"step": step, "network": network.state_dict(), "optimizer": optimizer.state_dict()}
                write_atomically(folder / STATE, partial(torch.save, state))
    network.eval().requires_grad_(False)
    (folder / STATE).unlink(missing_ok=True)
    return classifier


def examples(batch: Batch, application: MaskApplication, cut_out: float) -> tuple[Tensor, Tensor]:
    """Pictures (B c S S) for the classifier and labels (B); the first `cut_out` of them show the object alone."""
    masks = main_object(batch)
    masks[round(cut_out * len(masks)) :] = True  # the mask of the whole image leaves it as it is
    return application(images_as_float(batch.images), masks)[:, 0], labels_of(batch)


def _resume(path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    state = read_state(path, frozenset({"network", "optimizer", "step"}))
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])

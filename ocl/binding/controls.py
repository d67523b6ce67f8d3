"""What patches say about IsSameObject without a model: every table of probes needs these beside it.

Each control gives logits (B n n) for `pair_measures`. Controls that learn are logistic regressions on pair features,
fitted on the training images and scored on others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ocl.shapes import IGNORE, images_as_float


def all_different(objects: Tensor) -> Tensor:
    """objects (B n) -> logits (B n n), -1 for every pair: the accuracy that no probe may fall below, AUC one half."""
    return -torch.ones(*objects.shape, objects.shape[1], device=objects.device)


def by_labels(labels: Tensor) -> Tensor:
    """Say "same" where labels (B n) are equal: 1, else -1; `IGNORE` is equal to nothing.

    With the classes of patches this is the class oracle, beyond which a probe must tell objects of one class apart;
    with what another person drew in the same photographs it is human against human, the ceiling.
    """
    equal = (labels[:, :, None] == labels[:, None]) & (labels != IGNORE)[:, :, None]
    return equal.float() * 2 - 1


def colour_distances(colours: Tensor) -> Tensor:
    """(B n 3) -> (B n n) Euclidean distances."""
    return torch.cdist(colours.float(), colours.float(), compute_mode="donot_use_mm_for_euclid_dist")


def mean_colours(images: Tensor, patch: int) -> Tensor:
    """images (B 3 H W) uint8 or float in [0, 1] -> mean colour of every patch (B N 3) in raster order.

    Raises:
        ValueError: sides that are no multiples of the patch size, in pixels.
    """
    images = images_as_float(images)
    if images.shape[-2] % patch or images.shape[-1] % patch:
        raise ValueError(f"images of {tuple(images.shape[-2:])} cannot be cut into patches of {patch} pixels.")
    return F.avg_pool2d(images, patch).flatten(2).mT


def permuted(tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """tokens (L B n D) with the patches of each image in another random order, the same one in all layers.

    Labels stay behind: what a probe still finds is no property of the patches it names.
    """
    order = torch.rand(tokens.shape[1:3], generator=generator).argsort(-1).to(tokens.device)  # (B n)
    return tokens.take_along_dim(order[None, :, :, None], dim=2)


class LogisticControl:
    """Logistic regression of "same object" on features of pairs, such as distances of places, of colours or both.

    Features are standardised; balanced weights or any other correction are left out, as for the probes.
    """

    def __init__(self) -> None:
        self.model: Any = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))

    def fit(self, features: Tensor, same: Tensor, counted: Tensor) -> LogisticControl:
        """features (B n n F), same and counted (B n n) bool; every pair enters once.

        Raises:
            ValueError: no pair that counts, or only one kind of them.
        """
        use = counted.triu(diagonal=1)
        targets = same[use].cpu().numpy()
        if len(np.unique(targets)) < 2:
            raise ValueError("A logistic control needs pairs of one object and of two; these are all of one kind.")
        self.model.fit(features[use].double().cpu().numpy(), targets)
        return self

    def __call__(self, features: Tensor) -> Tensor:
        """features (B n n F) -> logits (B n n) float32."""
        flat = features.flatten(0, 2).double().cpu().numpy()
        logits = torch.from_numpy(self.model.decision_function(flat)).float()
        return logits.view(features.shape[:3]).to(features.device)

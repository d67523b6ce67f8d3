"""Classifiers of segments: a frozen image encoder and what reads class logits from its vectors.

The two halves are kept apart because they cost so differently: vectors are computed once and stored, after which
another head, other class names or other prompts cost nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ocl.masks.image_encoders import ImageEncoder, TimmImages


class Classifier(nn.Module, ABC):
    """Images (n c S S) float in [0, 1] -> logits (n C). Frozen and always in eval mode.

    encoder: gives the vectors; image_size (S) and dim (D) are its own. classes: C names, none of them twice.
    """

    def __init__(self, encoder: ImageEncoder, classes: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder
        self.classes = tuple(classes)
        self.image_size, self.dim = encoder.image_size, encoder.dim
        if len(set(self.classes)) != len(self.classes) or not self.classes:
            raise ValueError(f"classes must be different names, got {len(self.classes)} with doubles or none at all.")

    @abstractmethod
    def logits(self, vectors: Tensor) -> Tensor:
        """Vectors of the encoder (... D) -> (... C)."""

    def embed(self, images: Tensor) -> Tensor:
        """(n c S S) -> (n D)"""
        vectors: Tensor = self.encoder(images)
        return vectors

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.embed(images))

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)


class TimmClassifier(Classifier):
    """A timm model with its own classifier, input size, mean and deviation.

    Args:
        name, image_size, pretrained, weights: see `TimmImages`.
        classes: None takes the synset ids ("n01440764", ...) of a model for ImageNet: its English names hold doubles.

    Raises:
        ValueError: a model that is no classifier, classifies by something else than one linear layer, or has another
            number of classes than `classes`; none given for a model that is not for ImageNet.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        pretrained: bool = True,
        weights: str | None = None,
    ) -> None:
        # Published weights come with their classes; asked for another number, timm would give a random classifier.
        published = pretrained and weights is None
        number = None if published or classes is None else len(classes)
        encoder = TimmImages(name, image_size, pretrained, weights, number)
        model: Any = encoder.model
        head = model.get_classifier()
        if not isinstance(head, nn.Linear):
            raise ValueError(f"{name} has no classifier of one linear layer; fit a LinearHead on TimmImages instead.")
        super().__init__(encoder, _imagenet_synsets(encoder) if classes is None else classes)
        if head.out_features != len(self.classes):
            raise ValueError(f"{name} has {head.out_features} classes, got {len(self.classes)} names for them.")
        self.train()

    def logits(self, vectors: Tensor) -> Tensor:
        model: Any = self.encoder.model
        logits: Tensor = model.get_classifier()(vectors)
        return logits


class LinearHead(Classifier):
    """Logistic regression on frozen vectors; equal logits for all classes until `fit` was called.

    Save a fitted one as any module, with its state_dict or `ocl.checkpoints.save`.
    """

    def __init__(self, encoder: ImageEncoder, classes: Sequence[str]) -> None:
        super().__init__(encoder, classes)
        self.head = nn.Linear(self.dim, len(self.classes)).requires_grad_(False)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.train()

    def logits(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.head(vectors)
        return logits

    def fit(self, vectors: Tensor, labels: Tensor, inverse_penalty: float = 1.0) -> Self:
        """Fit on vectors (n D) of the encoder and labels (n) int64, with scikit-learn's L-BFGS.

        The least of sum of cross-entropies + |W|^2 / (2 inverse_penalty), W acting on standardised features; their
        mean and deviation end up in the layer.

        Raises:
            ValueError: shapes that do not fit, a class without an example, or vectors that are not finite.
        """
        from sklearn.linear_model import LogisticRegression  # here, since it takes a second to import

        count = len(self.classes)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or labels.shape != vectors.shape[:1]:
            raise ValueError(
                f"vectors must be (n, {self.dim}) and labels (n), got {tuple(vectors.shape)}, {tuple(labels.shape)}."
            )
        if not torch.equal(labels.unique().cpu(), torch.arange(count)):
            raise ValueError(f"labels must be 0..{count - 1} with an example of each, got {labels.unique().tolist()}.")
        if not vectors.isfinite().all():
            raise ValueError("vectors to fit a linear head on hold NaN or infinity.")
        deviation, mean = torch.std_mean(vectors.double().cpu(), dim=0, correction=0)
        deviation = torch.where(deviation > 1e-9, deviation, 1.0)
        standard = (vectors.double().cpu() - mean) / deviation
        found = LogisticRegression(C=inverse_penalty, max_iter=10_000).fit(standard.numpy(), labels.cpu().numpy())
        weight, bias = torch.from_numpy(found.coef_), torch.from_numpy(found.intercept_)
        if count == 2:  # scikit-learn keeps the difference of the two
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        weight = weight / deviation
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias - weight @ mean)
        return self


class SuperClasses(Classifier):
    """Another classifier's classes in groups: the largest logit of a group's members, softmax (if any) after that.

    So the published code's CLIP branch does. Its Alpha-CLIP branch takes the softmax over all prompts first and the
    largest of each group then: those scores do not sum to one, and a group gains from few competitors instead of a
    better match. The two are not comparable, and only the first is built here.

    Args:
        classifier: is shared, not copied.
        members: the name of each super-class -> the names of its classes. Classes in no group cannot be answered.

    Raises:
        ValueError: a group without members, or a member that the classifier does not know.
    """

    index: Tensor

    def __init__(self, classifier: Classifier, members: Mapping[str, Sequence[str]]) -> None:
        super().__init__(classifier.encoder, list(members))
        place = {name: number for number, name in enumerate(classifier.classes)}
        for group, names in members.items():
            unknown = sorted(set(names) - set(place))
            if unknown or not names or isinstance(names, str):
                raise ValueError(f"super-class {group!r} needs a list of known classes, got {unknown[:3] or names!r}.")
        self.classifier = classifier
        self.members = {group: list(names) for group, names in members.items()}
        longest = max(map(len, self.members.values()))
        rows = [[place[name] for name in names] for names in self.members.values()]
        padded = [row + row[:1] * (longest - len(row)) for row in rows]  # a repeated member changes no maximum
        self.register_buffer("index", torch.tensor(padded), persistent=False)
        self.train()

    def logits(self, vectors: Tensor) -> Tensor:
        return self.classifier.logits(vectors)[..., self.index].amax(-1)  # (... C longest) -> (... C)


def _imagenet_synsets(encoder: TimmImages) -> list[str]:
    import timm.data

    data: Any = timm.data
    subset = data.infer_imagenet_subset(encoder.model)
    if subset is None:
        raise ValueError(f"{encoder.name} is no classifier of ImageNet; name its classes.")
    return list(data.ImageNetInfo(subset).label_names())

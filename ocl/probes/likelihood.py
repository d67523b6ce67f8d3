"""How probable true objects are under what a probe says about slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Quantity:
    """A floating property: its columns among all quantities; mean and standard deviation (d) over training objects."""

    columns: slice
    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Category:
    """An integer property: its place among the categories, how many classes, and the most frequent one in training."""

    index: int
    classes: int
    majority: int


class Properties:
    """Which properties can be probed, and their encoding as training targets.

    Properties (or single dimensions) that are the same for every visible training object are left out: nothing about
    them can be read from a slot or missed.

    Args:
        objects: training objects, each (n M ...); floating (n M) or (n M d) are quantities, integer or bool (n M)
            categories.
        names: the properties to keep, all but "visible" where None.

    Raises:
        ValueError: an unknown name, a category that is not (n M) or negative, or nothing that varies.
    """

    def __init__(self, objects: Mapping[str, Tensor], names: Sequence[str] | None = None) -> None:
        self.quantities: dict[str, Quantity] = {}
        self.categories: dict[str, Category] = {}
        self.dimensions: dict[str, Tensor] = {}
        visible, start = objects["visible"], 0
        for name in sorted(set(objects) - {"visible"}) if names is None else names:
            if name not in objects or name == "visible":
                raise ValueError(
                    f'There is no property "{name}"; the objects have {sorted(set(objects) - {"visible"})}.'
                )
            values = objects[name]
            if values.is_floating_point():
                seen = _as_matrix(values)[visible].double()
                mean, deviation = seen.mean(0), seen.std(0, correction=0)
                varies = (deviation > 1e-6 * mean.abs().clamp(min=1e-6)).nonzero()[:, 0]
                if len(varies):
                    columns = slice(start, start := start + len(varies))
                    self.quantities[name] = Quantity(columns, mean[varies].float(), deviation[varies].float())
                    self.dimensions[name] = varies
                continue
            if values.ndim != 2 or (len(values[visible]) and int(values[visible].min()) < 0):
                raise ValueError(f'objects["{name}"] is integer, so it must be (n, M) with labels of 0 or more.')
            count = values[visible].long().bincount()
            if (count > 0).sum() > 1:
                self.categories[name] = Category(len(self.categories), len(count), int(count.argmax()))
        if not self.quantities and not self.categories:
            raise ValueError("No property varies among the visible training objects, so there is nothing to probe.")

    @property
    def quantity_columns(self) -> int:
        return sum(len(quantity.mean) for quantity in self.quantities.values())

    @property
    def classes(self) -> list[int]:
        """How many classes each category has."""
        return [category.classes for category in self.categories.values()]

    @property
    def width(self) -> int:
        """How many numbers a probe must put out per slot: the quantities, then the logits of each category."""
        return self.quantity_columns + sum(self.classes)

    def targets(self, objects: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Quantities (n M Q) float32 in standard deviations and categories (n M G) int64; zeros where not visible.

        Classes that training never showed are -1: no answer can be right, and they do not tell slots apart.
        """
        visible = objects["visible"]
        quantities = [torch.zeros(*visible.shape, 0, device=visible.device)]
        categories = [torch.zeros(*visible.shape, 0, dtype=torch.int64, device=visible.device)]
        for name, quantity in self.quantities.items():
            quantities.append((self.varying(name, objects[name]) - quantity.mean) / quantity.deviation)
        for name, category in self.categories.items():
            labels = objects[name][:, :, None].long()
            categories.append(labels.masked_fill(labels >= category.classes, -1))
        hidden = ~visible[:, :, None]
        return torch.cat(quantities, 2).masked_fill(hidden, 0), torch.cat(categories, 2).masked_fill(hidden, 0)

    def varying(self, name: str, values: Tensor) -> Tensor:
        """(n M ...) -> (n M d) float32, the dimensions of a quantity that vary in training."""
        return _as_matrix(values).float()[..., self.dimensions[name]]


def _as_matrix(values: Tensor) -> Tensor:
    return values[..., None] if values.ndim == 2 else values.flatten(2)


class Likelihood(nn.Module):
    """-log p(object | slot): Gaussian for quantities, with one learned width per dimension, softmax for categories."""

    def __init__(self, properties: Properties) -> None:
        super().__init__()
        self.classes = properties.classes
        self.log_width = nn.Parameter(torch.zeros(properties.quantity_columns))

    def forward(self, outputs: Tensor, quantities: Tensor, categories: Tensor) -> Tensor:
        """outputs (b K width), quantities (b M Q), categories (b M G) -> (b K M)."""
        means, *logits = outputs.split([len(self.log_width), *self.classes], dim=-1)
        log_width = self.log_width.clamp(min=-5)  # a quantity that is read exactly must not drown the others
        error = (means[:, :, None] - quantities[:, None]) * torch.exp(-log_width)  # (b K M Q)
        cost: Tensor = (error.square() / 2 + log_width).sum(-1)
        for logit, label in zip(logits, categories.unbind(-1), strict=True):
            label = label[:, None].expand_as(cost)
            cost = cost - logit.log_softmax(-1).gather(2, label.clamp(min=0)).masked_fill(label < 0, 0)
        return cost

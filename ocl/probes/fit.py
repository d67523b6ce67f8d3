"""Train property probes on frozen slots."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ocl.matching import Assignment
from ocl.probes.labelled import LabelledSlots
from ocl.probes.likelihood import Likelihood, Properties

BATCH = 128
_FAR = 1e9  # cost of a slot that is not valid


def linear_probe(dim: int, width: int) -> nn.Module:
    return _silent(nn.Linear(dim, width))


def mlp_probe(dim: int, width: int) -> nn.Module:
    """One hidden layer of 256."""
    return nn.Sequential(nn.Linear(dim, 256), nn.ReLU(), _silent(nn.Linear(256, width)))


def _silent(layer: nn.Linear) -> nn.Linear:
    """Start from the same answer for every slot: differences between slots must be learned, not left over."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


PROBES: Mapping[str, Callable[[int, int], nn.Module]] = {"linear": linear_probe, "mlp": mlp_probe}


class Standardize(nn.Module):
    """Zero mean and unit deviation in every dimension over the valid training slots."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, vectors: Tensor) -> None:
        """vectors: (n D)."""
        super().__init__()
        deviation, mean = torch.std_mean(vectors.float(), dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp(min=1e-6))

    def forward(self, vectors: Tensor) -> Tensor:
        standard: Tensor = (vectors.float() - self.mean) / self.deviation
        return standard


class Examples(NamedTuple):
    """What a probe reads, one row per image, with zeros in place of invalid slots and hidden objects.

    vectors (n K D), valid (n K), visible (n M), targets (n M ...); slot (n M) and matched (n M): the pairs given.
    """

    vectors: Tensor
    valid: Tensor
    visible: Tensor
    quantities: Tensor
    categories: Tensor
    slot: Tensor
    matched: Tensor

    @staticmethod
    def of(slots: LabelledSlots, properties: Properties) -> Examples:
        vectors = slots.vectors.masked_fill(~slots.valid[:, :, None], 0)
        pairs = slots.pairs or Assignment(torch.zeros_like(slots.visible, dtype=torch.int64), slots.visible)
        return Examples(vectors, slots.valid, slots.visible, *properties.targets(slots.objects), *pairs)

    def take(self, images: Tensor) -> Examples:
        return Examples(*(field[images] for field in self))


class PropertyProbe(nn.Module):
    """Vectors (b K D) -> outputs (b K width), and the likelihood of objects under them."""

    def __init__(self, probe: nn.Module, standardize: Standardize, likelihood: Likelihood) -> None:
        super().__init__()
        self.probe = probe
        self.standardize = standardize
        self.likelihood = likelihood

    def forward(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """Outputs (b K width) and cost -log p(object | slot) (b K M), `_FAR` for slots that are not valid."""
        outputs = self.probe(self.standardize(examples.vectors))
        cost = self.likelihood(outputs, examples.quantities, examples.categories)
        return outputs, cost.masked_fill(~examples.valid[:, :, None], _FAR)

    def loss(self, examples: Examples, paired: bool) -> Tensor:
        """Mean -log likelihood of the visible objects, under the slot given or under the mixture of all slots."""
        cost: Tensor = self(examples)[1]
        if paired:
            cost = cost.gather(1, examples.slot[:, None])[:, 0]
            counted = examples.visible & examples.matched
        else:
            cost = -torch.logsumexp(-cost, dim=1)
            counted = examples.visible & examples.valid.any(1, keepdim=True)
        return cost.where(counted, 0.0).sum() / counted.sum().clamp(min=1)


def fit(
    make: Callable[[int, int], nn.Module], slots: LabelledSlots, properties: Properties, seed: int = 0, epochs: int = 60
) -> PropertyProbe:
    """Adam with a decaying rate; every tenth image is held out to choose the epoch, so that a probe that finds nothing
    stays at the mean instead of fitting noise."""
    examples, paired = Examples.of(slots, properties), slots.pairs is not None
    generator = torch.Generator().manual_seed(seed)
    held_out, training = torch.randperm(len(slots), generator=generator).tensor_split([max(1, len(slots) // 10)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = make(slots.vectors.shape[2], properties.width)
    probe = PropertyProbe(probe, Standardize(slots.vectors[slots.valid]), Likelihood(properties))
    probe.to(slots.vectors.device)
    optimizer = torch.optim.Adam(probe.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, kept = math.inf, probe.state_dict()
    for _ in range(epochs):
        for images in training[torch.randperm(len(training), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            probe.loss(examples.take(images), paired).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            loss = float(probe.loss(examples.take(held_out), paired))
        if loss < best:
            best, kept = loss, copy.deepcopy(probe.state_dict())
    probe.load_state_dict(kept)
    return probe

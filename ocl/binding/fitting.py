"""Fit the probes of all layers at once; each layer keeps its own best epoch."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ocl.binding.patches import PairRule, Patches, distinct_pairs
from ocl.binding.probes import PairProbe

IN_CACHE = 2**19
"""Numbers in float32, of the tokens of a step, that the cache of a CPU core holds beside what is made of them."""


@dataclass
class FitRecord:
    """What happened, epoch by epoch.

    training:   (E L) mean loss of the epoch's batches.
    validation: (E L) mean loss of the validation images after the epoch; None without them.
    kept:       (L) int64, the epoch whose parameters each layer ended with.
    """

    training: Tensor
    validation: Tensor | None
    kept: Tensor


def fit(
    probe: PairProbe,
    training: Patches,
    validation: Patches | None = None,
    *,
    pairs: PairRule = distinct_pairs,
    epochs: int = 16,
    lr: float = 1e-3,
    batch: int = 32,
    decay_every: int | None = 8,
    decay: float = 0.2,
    weight_decay: float = 0.0,
    patience: int | None = None,
    standardise: bool = False,
    seed: int = 0,
) -> FitRecord:
    """Adam on the probe's own loss over the pairs that count, in float32, on the device of the probe.

    Every parameter of a probe has the layer as its leading axis and Adam treats each number by itself, so L layers are
    fitted together as L runs would fit them one by one. Epochs, rate, decay (by 0.2 every 8 epochs) and no weight decay
    are the published code's; its batch is 256 images of about 20,000, and it standardises nothing.

    Args:
        probe: fitted in place.
        training: patches of the training images.
        validation: patches of OTHER images; each layer keeps the epoch with the least loss on them. Without them the
            last epoch is kept.
        pairs: which pairs of patches count.
        epochs: E at most.
        lr: of Adam.
        batch: images per step.
        decay_every: epochs between drops of the rate; None for none.
        decay: factor of a drop.
        weight_decay: of Adam (on the gradient).
        patience: stop when no layer has improved for this many epochs; None never stops early.
        standardise: let the probe take off the mean and divide by the deviation of the training tokens.
        seed: of the order of the images.

    Raises:
        ValueError: no images, no pair that counts, another L or D than the probe's, or a loss that is not finite.
    """
    if epochs < 1 or batch < 1 or not len(training):
        raise ValueError(f"fit needs images, epochs and a batch of at least 1: {len(training)}, {epochs}, {batch}.")
    for name, patches in (("training", training), ("validation", validation)):
        if patches is not None and not _any_pair(patches, pairs, batch):
            raise ValueError(f"No pair of {name} patches counts: are all objects unknown, or one patch per image?")
    if standardise:
        probe.standardise(training.tokens)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(probe.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, decay_every or epochs, decay)
    best = torch.full((probe.layers,), math.inf)
    kept, waited = torch.zeros(probe.layers, dtype=torch.int64), 0
    parts = _parts(probe, batch * training.objects.shape[1])
    _share_gradients(probe, parts)
    chosen = copy.deepcopy(dict(probe.named_parameters()))
    losses, validated = [], []
    for epoch in range(epochs):
        total = torch.zeros(probe.layers, device=training.tokens.device)
        for images in torch.randperm(len(training), generator=generator).split(batch):
            part = training.take(images.to(training.tokens.device))
            counted = pairs(part)
            optimizer.zero_grad(set_to_none=False)  # the parts add to these
            for few, layers in parts:
                loss = few.loss(part.of_layers(layers), counted)
                loss.sum().backward()
                total[layers] += loss.detach() * len(part)
            optimizer.step()
        schedule.step()
        losses.append((total / len(training)).cpu())
        if not losses[-1].isfinite().all():
            raise ValueError(f"The loss is not finite in epoch {epoch}: are the tokens finite? A lower lr may do.")
        current = torch.full_like(best, -epoch)  # without validation images every epoch is better than the last
        if validation is not None:
            current = mean_loss(probe, validation, pairs, batch)
            if not current.isfinite().all():
                raise ValueError(f"The validation loss is not finite in epoch {epoch}: are its tokens finite?")
            validated.append(current)
        better = current < best
        best, kept = torch.where(better, current, best), torch.where(better, epoch, kept)
        waited = 0 if bool(better.any()) else waited + 1
        with torch.no_grad():
            for name, values in probe.named_parameters():
                chosen[name][better] = values[better]
        if patience is not None and waited >= patience:
            break
    with torch.no_grad():
        for name, values in probe.named_parameters():
            values.copy_(chosen[name])
    return FitRecord(torch.stack(losses), torch.stack(validated) if validated else None, kept)


@torch.no_grad()
def mean_loss(probe: PairProbe, patches: Patches, pairs: PairRule = distinct_pairs, batch: int = 32) -> Tensor:
    """(L) the probe's loss, mean over images in batches, on the CPU."""
    parts = _parts(probe, batch * patches.objects.shape[1])
    total = torch.zeros(probe.layers, device=patches.tokens.device)
    for images in torch.arange(len(patches), device=patches.tokens.device).split(batch):
        part = patches.take(images)
        counted = pairs(part)
        for few, layers in parts:
            total[layers] += few.loss(part.of_layers(layers), counted) * len(part)
    return (total / len(patches)).cpu()


def _any_pair(patches: Patches, pairs: PairRule, batch: int) -> bool:
    """Whether any pair counts. Single images, and so whole batches, may have none: the others' pairs fit the probe."""
    parts = torch.arange(len(patches), device=patches.tokens.device).split(batch)
    return any(bool(pairs(patches.take(images)).any()) for images in parts)


def _parts(probe: PairProbe, patches: int) -> list[tuple[PairProbe, slice]]:
    """Probes of a few layers each that share the memory of this one, and which layers: on a CPU as many as stay in the
    cache with the tokens of `patches` patches, a step's B n, so that no layer costs more for being one of many."""
    on_cpu = next(probe.parameters()).device.type == "cpu"
    count = max(1, IN_CACHE // (patches * probe.dim)) if on_cpu else probe.layers
    return [(part, slice(number * count, (number + 1) * count)) for number, part in enumerate(probe.parts(count))]


def _share_gradients(probe: PairProbe, parts: list[tuple[PairProbe, slice]]) -> None:
    """Gradients of the parts are added to those of the probe."""
    for name, values in probe.named_parameters():
        values.grad = torch.zeros_like(values)
        for part, layers in parts:
            part.get_parameter(name).grad = values.grad[layers]

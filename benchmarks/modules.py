"""What the modules that shepherd slots add to a training step, at 64 pixels.

python benchmarks/modules.py [--batch 16] [--threads 1] [--repeats 9] [--device cuda]

Three models: the published one, the same with a strided encoder, and the small one of `make quickstart`. A step is
forward, losses, backward and Adam; a quarter of the images has points for three quarters of six objects. All variants
take turns, and every ratio is of neighbours, so that a busy machine slows all alike. With one thread on a CPU, seconds
are those that the process was given.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.decoders.patch import PatchDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.hooks import ReadsModel
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.points import PointLoss
from ocl.losses.reconstruction import PixelReconstruction
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.slots.point_guidance import PointGuidance
from ocl.slots.refining import AttentionRefiningKernel

SIZE, SLOTS, OBJECTS = (64, 64), 7, 6

Variant = Callable[[int], tuple[dict[str, Any], list[nn.Module]]]
"""Slot width D -> parts of SlotAttention, losses beside the reconstruction."""

VARIANTS: dict[str, Variant] = {
    "plain": lambda dim: ({}, []),
    "+ kernel": lambda dim: ({"kernel": AttentionRefiningKernel()}, []),
    "+ kernel, box": lambda dim: ({"kernel": AttentionRefiningKernel(trainable=False)}, []),
    "+ points": lambda dim: ({"points": PointGuidance(dim)}, [PointLoss()]),
    "+ SLASH": lambda dim: ({"kernel": AttentionRefiningKernel(), "points": PointGuidance(dim)}, [PointLoss()]),
    "+ cycle, slots": lambda dim: ({}, [SlotFeatureSlot()]),
    "+ cycle, both": lambda dim: ({}, [SlotFeatureSlot(), FeatureSlotFeature()]),
}


def published(strides: tuple[int, ...], **parts: Any) -> ObjectCentricModel:
    encoder, decoder = CNNEncoder(SIZE, 64, strides=strides), BroadcastDecoder(64, (8, 8), strides=(2, 2, 2, 1))
    return ObjectCentricModel(encoder, RandomSlots(SLOTS, 64), SlotAttention(64, **parts), decoder)


def small(**parts: Any) -> ObjectCentricModel:
    encoder = CNNEncoder(SIZE, 48, channels=32, strides=(2, 2))
    decoder = PatchDecoder(48, (16, 16), 2, 64, hidden_layers=2)
    return ObjectCentricModel(encoder, RandomSlots(SLOTS, 48), SlotAttention(48, hidden_dim=64, **parts), decoder)


MODELS: dict[str, tuple[int, Callable[..., ObjectCentricModel]]] = {
    "published, 64 x 64 tokens": (64, lambda **parts: published((1, 1, 1, 1), **parts)),
    "published, 16 x 16 tokens": (64, lambda **parts: published((1, 2, 2, 1), **parts)),
    "small, 16 x 16 tokens": (48, small),
}


def step_of(
    model: ObjectCentricModel, losses: list[nn.Module], batch: Batch, clock: Callable[[], float]
) -> Callable[[], float]:
    """A training step that returns its seconds."""
    for loss in losses:
        if isinstance(loss, ReadsModel):
            loss.attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    synchronise = torch.cuda.synchronize if batch.images.is_cuda else lambda: None

    def step() -> float:
        synchronise()
        start = clock()
        output = model(batch.images, hints=batch.hints)
        total: Tensor = torch.stack([loss(output, batch) for loss in losses]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        synchronise()
        return clock() - start

    return step


def batch_of(size: int, device: str) -> Batch:
    known = (torch.arange(size) % 4 == 0)[:, None] & (torch.rand(size, OBJECTS) < 0.75)
    objects = {"points": torch.rand(size, OBJECTS, 2, device=device), "point_known": known.to(device)}
    return Batch(torch.rand(size, 3, *SIZE, device=device), objects=objects)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    title = f"training step, batch {arguments.batch}, {arguments.device}, {arguments.threads} thread(s); "
    table = Table(title=title + f"median (least to most) of {arguments.repeats}")
    for name in ("model", "variant", "ms", "over plain"):
        table.add_column(name, justify="right" if name in ("ms", "over plain") else "left")
    batch = batch_of(arguments.batch, arguments.device)
    alone = arguments.device == "cpu" and arguments.threads == 1
    clock = time.process_time if alone else time.perf_counter
    for model_name, (dim, build) in MODELS.items():
        steps = []
        for variant in VARIANTS.values():
            torch.manual_seed(0)
            parts, losses = variant(dim)
            model = build(**parts).to(arguments.device)
            steps.append(step_of(model, [PixelReconstruction(), *losses], batch, clock))
        for step in steps:
            step()
        rounds = [[step() for step in steps] for _ in range(arguments.repeats)]
        for index, name in enumerate(VARIANTS):
            ratios = [seconds[index] / seconds[0] for seconds in rounds]
            middle = 1000 * statistics.median(seconds[index] for seconds in rounds)
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            table.add_row(model_name if index == 0 else "", name, f"{middle:.1f}", spread)
        table.add_section()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

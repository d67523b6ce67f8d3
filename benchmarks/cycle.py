"""What the cycle losses add to a training step, at 256 and 1024 tokens of 64-pixel images.

python benchmarks/cycle.py [--batch 8] [--threads 1] [--repeats 9] [--device cuda]

Two models: the quickstart's small one and the published one with a strided encoder. All arms of a model take turns on
the same weights, and every ratio is of neighbours, so that a busy machine slows both; on a CPU, seconds are those of
this process.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.decoders.patch import PatchDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.cycle import FeatureSlotFeature, SlotFeatureSlot
from ocl.losses.cycle_aims import Diagonal, PositiveSet, SoftTarget
from ocl.losses.cycle_targets import MovingAverageEncoder
from ocl.losses.reconstruction import PixelReconstruction
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

SIZE = (64, 64)


def small(strides: tuple[int, int]) -> ObjectCentricModel:
    encoder = CNNEncoder(SIZE, 48, 32, strides)
    return ObjectCentricModel(
        encoder, RandomSlots(6, 48), SlotAttention(48, hidden_dim=64), PatchDecoder(48, (16, 16), 2, 64, 2)
    )


def published(strides: tuple[int, int, int, int]) -> ObjectCentricModel:
    decoder = BroadcastDecoder(64, (8, 8), strides=(2, 2, 2, 1))
    return ObjectCentricModel(CNNEncoder(SIZE, strides=strides), RandomSlots(7, 64), SlotAttention(64), decoder)


MODELS = {
    "small, 256 tokens": lambda: small((2, 2)),
    "small, 1024 tokens": lambda: small((2, 1)),
    "published, 256 tokens": lambda: published((1, 2, 2, 1)),
    "published, 1024 tokens": lambda: published((1, 2, 1, 1)),
}


def arms() -> dict[str, list[SlotFeatureSlot | FeatureSlotFeature]]:
    average = FeatureSlotFeature(PositiveSet(target=MovingAverageEncoder()))
    return {
        "plain": [],
        "slot-feature-slot": [SlotFeatureSlot()],
        "feature-slot-feature, positive set": [FeatureSlotFeature()],
        "both": [SlotFeatureSlot(), FeatureSlotFeature()],
        "both, moving average": [SlotFeatureSlot(), average],
        "feature-slot-feature, diagonal": [FeatureSlotFeature(Diagonal())],
        "feature-slot-feature, soft target": [FeatureSlotFeature(SoftTarget())],
    }


class Step:
    def __init__(self, model: nn.Module, losses: list[SlotFeatureSlot | FeatureSlotFeature]) -> None:
        for loss in losses:
            loss.attach(model)
        self.model = model
        self.losses = nn.ModuleList([PixelReconstruction(), *losses]).to(next(model.parameters()).device)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def __call__(self, batch: Batch) -> float:
        """Seconds."""
        start = now(batch)
        output = self.model(batch.images)
        torch.stack([loss(output, batch) for loss in self.losses]).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        for module in self.losses.modules():
            if isinstance(module, MovingAverageEncoder):
                module.after_step()
        return now(batch) - start


def now(batch: Batch) -> float:
    if not batch.images.is_cuda:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    title = f"step time over plain, batch {arguments.batch}, {arguments.device}; median of {arguments.repeats}"
    table = Table("losses", *MODELS, title=title)
    columns: list[dict[str, str]] = []
    batch = Batch(torch.rand(arguments.batch, 3, *SIZE, device=arguments.device))
    for build in MODELS.values():
        torch.manual_seed(0)
        model = build().to(arguments.device)
        steps = {name: Step(model, losses) for name, losses in arms().items()}
        for step in steps.values():
            step(batch)  # not counted
        rounds = [{name: step(batch) for name, step in steps.items()} for _ in range(arguments.repeats)]
        plain = statistics.median(seconds["plain"] for seconds in rounds)
        ratios = {name: statistics.median(seconds[name] / seconds["plain"] for seconds in rounds) for name in steps}
        columns.append({name: f"{ratio:.2f}" for name, ratio in ratios.items()} | {"plain": f"{1000 * plain:.1f} ms"})
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

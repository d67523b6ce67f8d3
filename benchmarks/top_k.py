"""Top-k against full decoding of frozen features: seconds of a training step, and what it does to the loss.

python benchmarks/top_k.py [--batch 4] [--slots 7 11] [--hidden 2048] [--k 3] [--repeats 5] [--steps 0] [--device cuda]

A step is projection, Slot Attention, MLP decoder, loss, backward and Adam on tokens that are there already, as in
training from stored features (14 x 14 tokens of 768, D = 256: DINOSAUR on a ViT-B/16). Full and top-k take turns, every
ratio is of neighbours. With --steps both are trained alike on scenes, from the same weights and draws, with tokens of
an untrained ViT-Tiny (D = 64, 3 x 256), and the mean loss of the last tenth of the steps is shown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ocl.data.textured_scenes import TexturedScenes
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.vit import ViTEncoder
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.shapes import Batch, Features, images_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots


class StoredTokens(nn.Module):
    """Tokens in the place of images: (B N F) as they are."""

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, tokens: Tensor) -> Features:
        return Features(tokens, self.grid)


def model_of(k: int | None, slots: int, width: int, dim: int, hidden: int) -> ObjectCentricModel:
    torch.manual_seed(0)
    decoder = MLPDecoder(dim, width, (14, 14), hidden, 3)
    return ObjectCentricModel(
        StoredTokens((14, 14)),
        RandomSlots(slots, dim),
        SlotAttention(dim, hidden_dim=4 * dim),
        decoder if k is None else TopKDecoder(decoder, k),
        TokenProjection(width, dim),
    )


def step_of(model: ObjectCentricModel, clock: Callable[[], float]) -> Callable[[Tensor], tuple[float, Tensor]]:
    """A training step on tokens (B N F) that returns its seconds and its loss."""
    loss, optimizer = FeatureReconstruction(), torch.optim.Adam(model.parameters(), lr=4e-4)

    def step(tokens: Tensor) -> tuple[float, Tensor]:
        start = clock()
        value = loss(model(tokens), Batch(tokens))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if tokens.is_cuda:
            torch.cuda.synchronize()
        return clock() - start, value.detach()

    return step


def seconds(arguments: argparse.Namespace, clock: Callable[[], float]) -> Table:
    table = Table(title=f"training step, batch {arguments.batch}, median (least to most) of {arguments.repeats}")
    for name in ("K", "full, ms", f"top {arguments.k}, ms", "times faster"):
        table.add_column(name, justify="right")
    tokens = torch.randn(arguments.batch, 196, 768, device=arguments.device)
    for slots in arguments.slots:
        models = [model_of(k, slots, 768, 256, arguments.hidden).to(arguments.device) for k in (None, arguments.k)]
        steps = [step_of(model, clock) for model in models]
        rounds = [[step(tokens)[0] for step in steps] for _ in range(arguments.repeats + 1)][1:]
        full, top = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = [both[0] / both[1] for both in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(str(slots), f"{full:.0f}", f"{top:.0f}", spread)
    return table


def losses(arguments: argparse.Namespace, clock: Callable[[], float]) -> Table:
    encoder = ViTEncoder("vit_tiny_patch16_224", pretrained=False)
    scenes = TexturedScenes(256, image_size=224)
    images = torch.stack([item["images"] for item in scenes.__getitems__(range(256))])
    tokens = torch.cat([encoder(images_as_float(part)).tokens for part in images.split(32)])
    tokens = (tokens - tokens.mean((0, 1))) / tokens.std((0, 1))
    last = max(1, arguments.steps // 10)
    table = Table(title=f"mean loss of the last {last} of {arguments.steps} steps of 16 images")
    for name in ("K", "full", f"top {arguments.k}", "difference"):
        table.add_column(name, justify="right")
    for slots in arguments.slots:
        ends = []
        for k in (None, arguments.k):
            model = model_of(k, slots, 192, 64, 256).to(arguments.device)
            step, found = step_of(model, clock), []
            for number in range(arguments.steps):
                torch.manual_seed(number)
                found.append(step(tokens[torch.randint(256, (16,))].to(arguments.device))[1])
            ends.append(float(torch.stack(found[-last:]).mean()))
        table.add_row(str(slots), f"{ends[0]:.4f}", f"{ends[1]:.4f}", f"{ends[1] - ends[0]:+.4f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--slots", type=int, nargs="+", default=[7, 11])
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    alone = arguments.device == "cpu" and arguments.threads == 1
    clock = time.process_time if alone else time.perf_counter
    console = Console(width=100)
    console.print(seconds(arguments, clock))
    if arguments.steps:
        console.print(losses(arguments, clock))


if __name__ == "__main__":
    main()

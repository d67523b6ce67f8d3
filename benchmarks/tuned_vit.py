"""A ViT whose last blocks are trained beside their frozen copy, against two whole ViTs, one of them frozen.

python benchmarks/tuned_vit.py [--batch 4] [--first-block 8 0] [--repeats 3] [--threads 1] [--device cuda]

ViT-S/16 at 224 pixels: forward of both kinds of tokens, and backward through the trained ones; from block 8 on as in
SPOT's second stage, from 0 on as in FT-DINOSAUR. Both have the same weights and are checked to give the same gradient
before they are timed, in turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ocl.encoders.tuned_vit import TunedViT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--first-block", type=int, nargs="+", default=[8, 0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    alone = arguments.device == "cpu" and arguments.threads == 1

    def clock() -> float:
        if arguments.device != "cpu":
            torch.cuda.synchronize()
        return time.process_time() if alone else time.perf_counter()

    table = Table(title=f"{arguments.batch} images, median (least to most) of {arguments.repeats}")
    for name in ("trained from block", "two ViTs, ms", "ours, ms", "times faster"):
        table.add_column(name, justify="right")
    images = torch.rand(arguments.batch, 3, 224, 224, device=arguments.device)
    for first in arguments.first_block:
        steps = steps_of(first, images)
        torch.testing.assert_close(steps[0]().clone(), steps[1](), rtol=1e-3, atol=1e-4)
        rounds = []
        for _ in range(arguments.repeats):
            marks = [clock()]
            for step in steps:
                step()
                marks.append(clock())
            rounds.append((marks[1] - marks[0], marks[2] - marks[1]))
        two, ours = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratios = [both[0] / both[1] for both in rounds]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(str(first), f"{two:.0f}", f"{ours:.0f}", spread)
    Console(width=100).print(table)


def steps_of(first: int, images: Tensor) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A step of two whole ViTs, and ours; they return the gradient of the last block's first MLP layer."""
    torch.manual_seed(0)
    ours = TunedViT("vit_small_patch16_224", first_block=first, pretrained=False).to(images.device)
    whole = copy.deepcopy(ours.vit)
    whole.blocks[first:].requires_grad_(True)
    depth = len(whole.blocks)

    def tokens(vit: torch.nn.Module) -> Tensor:
        found: list[Tensor] = vit.forward_intermediates(  # type: ignore[operator]
            ours.normalised(images), indices=[depth - 1], output_fmt="NLC", intermediates_only=True
        )
        return found[0]

    def two() -> Tensor:
        with torch.no_grad():
            target = tokens(ours.vit)
        whole.zero_grad()
        (tokens(whole) + 1 - target).square().sum().backward()
        return whole.blocks[-1].mlp.fc1.weight.grad

    def one() -> Tensor:
        features = ours(images)
        ours.zero_grad()
        (features.tuned + 1 - features.tokens).square().sum().backward()
        return ours.tuned[-1].mlp.fc1.weight.grad

    return two, one


if __name__ == "__main__":
    main()

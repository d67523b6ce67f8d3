"""Slot attention, forward and backward, beside the PyPI package `slot-attention`.

python benchmarks/attention.py [--threads 1] [--repeats 7] [--device cuda]

Same shapes, three iterations, the same width of the residual MLP; both draw random starts; the tokens ask for their
gradient, as they do behind a trained encoder. The two take turns, and every ratio is of neighbours, so that a busy
machine slows both. On a GPU also under bfloat16 autocast, alone and with torch.compile.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from slot_attention import SlotAttention as PackageSlotAttention
from torch import Tensor, nn

from ocl.shapes import Features
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

SHAPES = [(64, 1024, 7, 64, (32, 32)), (8, 16384, 7, 64, (128, 128)), (64, 196, 7, 256, (14, 14))]
"""B, N, K, D and the token grid."""


class Ours(nn.Module):
    """The interface of the package: tokens (B N D) -> slots (B K D)."""

    def __init__(self, num_slots: int, dim: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.initial, self.grid = RandomSlots(num_slots, dim), grid
        self.grouping = SlotAttention(dim, hidden_dim=max(dim, 128))  # as wide as the package's

    def forward(self, tokens: Tensor) -> Tensor:
        features = Features(tokens, self.grid)
        vectors: Tensor = self.grouping(features, self.initial(features)).vectors
        return vectors


def step(module: nn.Module, tokens: Tensor, upstream: Tensor, bfloat16: bool) -> float:
    """Seconds of one forward and backward pass."""
    synchronise = torch.cuda.synchronize if tokens.is_cuda else lambda: None
    tokens.grad = None
    module.zero_grad(set_to_none=True)
    context: Any = torch.autocast(tokens.device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    synchronise()
    start = time.perf_counter()
    with context:
        slots = module(tokens)
    slots.backward(upstream.to(slots.dtype))
    synchronise()
    return time.perf_counter() - start


def in_turns(runs: list[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Seconds of every run, after three that are not counted."""
    for _ in range(3):
        for run in runs:
            run()
    return [list(times) for times in zip(*[[run() for run in runs] for _ in range(repeats)], strict=True)]


def spread(values: list[float], digits: int) -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    variants = [("float32", False, False)]
    if device.type == "cuda":
        variants += [("bfloat16", True, False), ("bfloat16, compiled", True, True)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"

    table = Table(title=f"slot attention, forward + backward, {where}; median (least to most) of {arguments.repeats}")
    for name in ("B, N, K, D", "", "package, ms", "ocl, ms", "ratio", "to package in float32"):
        table.add_column(name, justify="right" if name else "left")
    for batch, number, count, dim, grid in SHAPES:
        plain: list[float] = []
        for name, bfloat16, compiled in variants:
            torch.manual_seed(0)
            modules: list[Any] = [PackageSlotAttention(count, dim), Ours(count, dim, grid)]
            modules = [torch.compile(m.to(device)) if compiled else m.to(device) for m in modules]
            tokens = torch.randn(batch, number, dim, device=device, requires_grad=True)
            upstream = torch.randn(batch, count, dim, device=device)
            runs = [lambda m=m: step(m, tokens, upstream, bfloat16) for m in modules]  # type: ignore[misc]  # noqa: B023
            package, ours = in_turns(runs, arguments.repeats)
            plain = plain or package
            ratios = [theirs / mine for theirs, mine in zip(package, ours, strict=True)]
            total = statistics.median(plain) / statistics.median(ours)
            shown = [spread([1000 * t for t in times], 2) for times in (package, ours)]
            table.add_row(f"{batch}, {number}, {count}, {dim}", name, *shown, spread(ratios, 2), f"{total:.2f}")
    Console(width=150).print(table)


if __name__ == "__main__":
    main()

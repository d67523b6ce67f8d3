"""SLATE with codes as numbers and kept keys, beside codes as indicators and the whole prefix read again for each.

python benchmarks/slate.py [--batch 8] [--vocabulary 1024 4096] [--repeats 3] [--threads 1] [--device cuda]

The published sizes at 64 pixels: 256 codes, width 192, 4 blocks, K = 6. "transformer step" is embedding, slot
attention, decoder, cross-entropy and the backward pass from codes that are there already; "painting" is an image from
its codes, "generation" the codes from the slots. Both orders of operations have the same weights and are checked to
give the same before they are timed, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ocl.decoders.codes import CodeDecoder
from ocl.encoders.discrete import DiscreteAutoencoder, DiscreteEncoder
from ocl.model import TokenProjection
from ocl.shapes import Features, Grouped, Slots
from ocl.slate import SLATE
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

SIZE, SLOTS, DIM = 64, 6, 192


def model_of(vocabulary: int) -> SLATE:
    torch.manual_seed(0)
    encoder = DiscreteEncoder((SIZE, SIZE), DiscreteAutoencoder(vocabulary), DIM)
    grouping = SlotAttention(DIM, hidden_dim=DIM)
    decoder = CodeDecoder(DIM, DIM, encoder.grid, vocabulary)
    return SLATE(encoder, RandomSlots(SLOTS, DIM), grouping, decoder, TokenProjection(DIM, DIM))


def indicators(model: SLATE, codes: Tensor) -> Tensor:
    """Codes (B N) -> (B N V), one entry of each row 1."""
    return F.one_hot(codes, model.decoder.vocabulary).float()


def losses(model: SLATE, codes: Tensor, noise: Tensor, ours: bool) -> Tensor:
    target = None if ours else indicators(model, codes)
    if target is None:
        tokens = model.encoder.embed(codes)
    else:
        tokens = target @ model.encoder.dictionary.weight + model.encoder.position
    grouped = model.group(Features(tokens, model.encoder.grid), noise=noise)
    logits = model.decode(grouped).prediction
    if target is None:
        return F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="sum") / len(codes)
    return -(target * logits.log_softmax(dim=-1)).sum() / len(codes)


def gradient(model: SLATE, codes: Tensor, noise: Tensor, ours: bool) -> Tensor:
    model.zero_grad()
    losses(model, codes, noise, ours).backward()
    found = model.encoder.dictionary.weight.grad
    assert found is not None
    return found


@torch.no_grad()
def paint(model: SLATE, codes: Tensor, ours: bool) -> Tensor:
    if ours:
        return model.encoder.paint(codes)
    return model.encoder.autoencoder.paint_shares(indicators(model, codes).mT.unflatten(-1, model.encoder.grid))


@torch.no_grad()
def generate(model: SLATE, slots: Slots, ours: bool) -> Tensor:
    if ours:
        return model.decoder.generate(slots, model.encoder.embed)
    decoder, codes = model.decoder, torch.zeros(len(slots.vectors), 0, dtype=torch.int64, device=slots.vectors.device)
    memories = decoder._memories(slots)
    for _ in range(decoder.grid[0] * decoder.grid[1]):
        hidden = torch.cat([decoder.start.expand(len(codes), 1, -1), model.encoder.embed(codes)], dim=1)
        for block, memory in zip(decoder.blocks, memories, strict=True):
            hidden, _ = block(hidden, memory)
        codes = torch.cat([codes, decoder.logits(decoder.norm(hidden[:, -1:])).argmax(dim=-1)], dim=1)
    return codes


def turns(part: Callable[[bool], Tensor], repeats: int, clock: Callable[[], float]) -> list[tuple[float, float]]:
    """Seconds of ours and of the other, one after the other; the first turn warms up and compares."""
    ours, other = part(True).clone(), part(False)
    torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)
    found = []
    for _ in range(repeats):
        marks = []
        for kind in (True, False):
            start = clock()
            part(kind)
            marks.append(clock() - start)
        found.append((marks[0], marks[1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[1024, 4096])
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

    table = Table(title=f"{arguments.batch} images of {SIZE} pixels, median of {arguments.repeats}")
    for name in ("vocabulary", "part", "indicators, prefix again, ms", "ours, ms", "times faster"):
        table.add_column(name, justify="right")
    for vocabulary in arguments.vocabulary:
        model = model_of(vocabulary).to(arguments.device).eval()
        codes = torch.randint(vocabulary, (arguments.batch, 256), device=arguments.device)
        noise = torch.randn(SLOTS, DIM, device=arguments.device)
        with torch.no_grad():
            grouped: Grouped = model.group(Features(model.encoder.embed(codes), model.encoder.grid), noise=noise)
        parts: dict[str, Callable[[bool], Tensor]] = {
            "transformer step": lambda ours, m=model, c=codes, n=noise: gradient(m, c, n, ours),
            "painting": lambda ours, m=model, c=codes: paint(m, c, ours),
            "generation": lambda ours, m=model, g=grouped: generate(m, g.slots, ours),
        }
        for name, part in parts.items():
            rounds = turns(part, arguments.repeats, clock)
            mine, other = (1000 * statistics.median(times) for times in zip(*rounds, strict=True))
            ratios = [both[1] / both[0] for both in rounds]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            table.add_row(str(vocabulary), name, f"{other:.0f}", f"{mine:.0f}", spread)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()

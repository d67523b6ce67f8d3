"""A whole training step, and what each part costs, beside the plain order of operations with the same weights.

python benchmarks/training_step.py [--batch 8] [--strides 1 1 1 1] [--threads 1] [--repeats 5] [--device cuda]

The published model on 64-pixel images: CNN encoder, slot attention with K = 7, broadcast decoder from 8 x 8. The plain
order forms keys and values for every token, tiles slots before the decoder's first layer, uses GRUCell, and leaves all
gradients to autograd. Both are checked to give the same loss and gradients before they are timed, in turns. A step is
cut at tokens and slots, so that the backward pass of each part is timed with its forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.model import ObjectCentricModel
from ocl.shapes import Features
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

SIZE, SLOTS, DIM = 64, 7, 64
PARTS = ("encoder", "grouping", "decoder", "optimiser")


def plain_grouping(module: SlotAttention, features: Features, slots: Tensor) -> Tensor:
    """The equations of Slot Attention as they stand in the paper."""
    tokens = module.norm_tokens(features.tokens)
    keys, values = module.key(tokens), module.value(tokens)  # (B N D)
    for _ in range(module.iterations):
        query = module.query(module.norm_slots(slots)) * module.dim**-0.5
        attention = (keys @ query.mT).softmax(dim=-1)  # (B N K)
        weights = attention + module.epsilon
        weights = weights / weights.sum(dim=1, keepdim=True)
        updates = weights.mT @ values  # (B K D)
        slots = module.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
        slots = slots + module.mlp(module.norm_mlp(slots))
    return slots


def plain_decoder(module: BroadcastDecoder, slots: Tensor) -> Tensor:
    """Tile, add the position, convolve, mix."""
    tiled = slots.flatten(0, 1)[:, :, None, None].expand(-1, -1, *module.grid) + module.position()
    painted = module.output(module.hidden(module.first(tiled))).unflatten(0, slots.shape[:2])
    masks = painted[:, :, 3:].softmax(dim=1)
    return (masks * painted[:, :, :3]).sum(dim=1)


class Step:
    """Training steps of one model, with the seconds of each part."""

    def __init__(self, plain: bool, strides: list[int], device: str) -> None:
        torch.manual_seed(0)
        encoder = CNNEncoder((SIZE, SIZE), DIM, strides=strides)
        decoder = BroadcastDecoder(DIM, (8, 8), strides=(2, 2, 2, 1))
        parts: Any = ObjectCentricModel(encoder, RandomSlots(SLOTS, DIM), SlotAttention(DIM), decoder).to(device)
        self.model = parts
        self.group: Callable[..., Tensor] = lambda features, start: parts.grouping(features, start).vectors
        self.decode: Callable[..., Tensor] = lambda slots: parts.decoder(slots).prediction
        if plain:
            self.group = lambda features, start: plain_grouping(parts.grouping, features, start)
            self.decode = lambda slots: plain_decoder(parts.decoder, slots)
        self.optimizer = torch.optim.AdamW(parts.parameters(), lr=0.0, weight_decay=0.0)  # the weights stay the same
        self.synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None

    def gradients(self, images: Tensor, noise: Tensor) -> list[Tensor]:
        """The loss and every gradient, in one uncut pass."""
        self.optimizer.zero_grad()
        features = self.model.encoder(images)
        slots = self.group(features, self.model.initial_slots(features, None, noise))
        loss = F.mse_loss(self.decode(slots), images * 2 - 1)
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in self.model.parameters())]

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Seconds of every part and of the whole."""
        marks = [self._now()]
        features = self.model.encoder(images)
        tokens = features.tokens.detach().requires_grad_()
        marks.append(self._now())
        leaf = Features(tokens, features.grid)
        vectors = self.group(leaf, self.model.initial_slots(leaf))
        slots = vectors.detach().requires_grad_()
        marks.append(self._now())
        F.mse_loss(self.decode(slots), images * 2 - 1).backward()
        marks.append(self._now())
        vectors.backward(slots.grad)
        marks.append(self._now())
        features.tokens.backward(tokens.grad)
        marks.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(self._now())
        forward_encoder, forward_grouping, decoder, back_grouping, back_encoder, optimiser = (
            after - before for before, after in pairwise(marks)
        )
        seconds = (forward_encoder + back_encoder, forward_grouping + back_grouping, decoder, optimiser)
        return {**dict(zip(PARTS, seconds, strict=True)), "whole step": marks[-1] - marks[0]}

    def _now(self) -> float:
        self.synchronise()
        return time.perf_counter()


def check_equal(ours: Step, plain: Step, images: Tensor) -> None:
    """Raises AssertionError where the two orders of operations disagree."""
    noise = torch.randn(len(images), SLOTS, DIM, device=images.device)
    for one, other in zip(ours.gradients(images, noise), plain.gradients(images, noise), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--strides", type=int, nargs=4, default=[1, 1, 1, 1], help="of the encoder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    plain, ours = (Step(is_plain, arguments.strides, arguments.device) for is_plain in (True, False))
    images = torch.rand(arguments.batch, 3, SIZE, SIZE, device=arguments.device)
    check_equal(ours, plain, images)
    for step in (plain, ours):
        step(images)  # not counted
    pairs = [(plain(images), ours(images)) for _ in range(arguments.repeats)]

    tokens = ours.model.encoder.grid[0] * ours.model.encoder.grid[1]
    title = f"training step, batch {arguments.batch}, N {tokens}, K {SLOTS}, {arguments.device}, {arguments.threads} "
    table = Table(title=title + f"thread(s); median (least to most) of {arguments.repeats}")
    for name in ("part", "plain, ms", "ocl, ms", "share of ocl's step", "ratio"):
        table.add_column(name, justify="left" if name == "part" else "right")
    whole = statistics.median(fast["whole step"] for _, fast in pairs)
    for name in (*PARTS, "whole step"):
        slow, fast = (statistics.median(pair[i][name] for pair in pairs) for i in (0, 1))
        ratios = [one[name] / other[name] for one, other in pairs]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(name, f"{1000 * slow:.1f}", f"{1000 * fast:.1f}", f"{fast / whole:.0%}", ratio)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

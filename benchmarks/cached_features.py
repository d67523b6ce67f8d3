"""Training on stored tokens against computing them in every step, and what that makes of an epoch over COCO.

python benchmarks/cached_features.py [--batch 8] [--images 32] [--repeats 5] [--threads 1] [--precision bfloat16]
                                     [--hidden 1024] [--device cuda]

Slots on a frozen ViT-S/14 at 224 pixels (random weights, K = 7, D = 256, MLP decoders of three hidden layers). Both
ways read what `ocl fit` reads: JPEGs of 640 x 480, or tokens in bfloat16 from a store that was just written, so from
the page cache. They are checked to give nearly the same loss, then timed in turns; every ratio is of neighbours. On a
CPU the clock is the processor's time, which other programs on the machine do not lengthen much.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset

from ocl.data.collate import collate
from ocl.data.images import ImageFolder
from ocl.data.scenes import Item, read_items
from ocl.data.stored_tokens import StoredTokens
from ocl.decoders.mlp import MLPDecoder
from ocl.decoders.top_k import TopKDecoder
from ocl.encoders.cached import CachedEncoder
from ocl.encoders.vit import ViTEncoder
from ocl.features import extract
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.representations import Tokens
from ocl.shapes import Features, frames_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

COCO = 118_287  # images of train2017
PARTS = ("read", "frozen ViT", "slots and decoder", "optimiser")
DECODERS = {"all 7 slots": None, "top 3": 3}


def photographs(folder: Path, count: int) -> None:
    """Smooth noise in JPEG files, as large as COCO's photographs are."""
    generator = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)


def vit() -> ViTEncoder:
    torch.manual_seed(0)
    return ViTEncoder("vit_small_patch14_dinov2.lvd142m", pretrained=False)


class Step:
    """Training steps on a data set's items in turn, with the seconds of each part."""

    def __init__(self, data: Dataset[Item], k: int | None, arguments: argparse.Namespace) -> None:
        encoder = CachedEncoder(vit())
        decoder = MLPDecoder(256, encoder.dim, encoder.grid, arguments.hidden, 3)
        slots = RandomSlots(7, 256), SlotAttention(256, hidden_dim=1024)
        whole = decoder if k is None else TopKDecoder(decoder, k)
        model = ObjectCentricModel(encoder, *slots, whole, TokenProjection(encoder.dim, 256))
        self.device, self.batch, self.data = torch.device(arguments.device), arguments.batch, data
        self.model, self.loss = model.to(self.device), FeatureReconstruction()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)  # the weights stay the same
        self.dtype, self.count = getattr(torch, arguments.precision), 0

    def __call__(self) -> tuple[dict[str, float], float]:
        """Seconds of every part and of the whole, and the loss."""
        first = self.count * self.batch % len(self.data)  # type: ignore[arg-type]
        self.count += 1
        torch.manual_seed(first)
        marks = [self._now()]
        batch = collate(read_items(self.data, range(first, first + self.batch)))
        batch.images = frames_as_float(batch.images.to(self.device))
        marks.append(self._now())
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            features: Features = self.model.encoder(batch.images)
            marks.append(self._now())
            grouped = self.model.group(features)
            decoded = self.model.decode(grouped)
            loss = (decoded.prediction.float() - features.tokens.float()).square().mean()
        loss.backward()
        marks.append(self._now())
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(self._now())
        seconds = [after - before for before, after in pairwise(marks)]
        return {**dict(zip(PARTS, seconds, strict=True)), "step": marks[-1] - marks[0]}, loss.item()

    def _now(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def largest_memory(folder: Path, cached: bool, k: int | None, arguments: argparse.Namespace) -> float:
    """Gigabytes of a process that takes two steps and nothing else (of its GPU, where it has one)."""
    torch.set_num_threads(arguments.threads)
    step = Step(StoredTokens(folder / "tokens") if cached else ImageFolder(folder / "images"), k, arguments)
    step()
    step()
    if arguments.device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--images", type=int, default=32, help="a multiple of the batch")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=1024, help="width of the decoder's hidden layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        photographs(folder / "images", arguments.images)
        compare(folder, arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    images = ImageFolder(folder / "images")
    device = {"device": arguments.device, "progress": False}
    extract(Tokens(vit()), images, folder / "tokens", dtype="bfloat16", batch_size=arguments.batch, **device)
    size = sum(file.stat().st_size for file in (folder / "tokens").iterdir()) / len(images)
    sources: dict[str, Dataset[Item]] = {"computed": images, "stored": StoredTokens(folder / "tokens")}

    title = f"ViT-S/14 at 224, decoder 3 x {arguments.hidden}, {arguments.precision}, batch {arguments.batch}, "
    title += f"{arguments.device}, {arguments.threads} thread(s); median of {arguments.repeats} steps"
    table = Table(title=title)
    for name in ("decoder", "tokens", "images/s", *PARTS, "GB", "ratio (least to most)"):
        table.add_column(name, justify="left" if name in ("decoder", "tokens") else "right")
    paper = Table(title=f"an epoch of {COCO:,} images, on paper")
    for name in ("decoder", "tokens", "hours"):
        paper.add_column(name, justify="right" if name == "hours" else "left")
    once = 0.0
    for decoder, k in DECODERS.items():
        steps = [Step(data, k, arguments) for data in sources.values()]
        losses = [step()[1] for step in steps]  # not timed
        assert abs(losses[0] - losses[1]) < 0.02 * losses[0], losses
        pairs = [[step()[0] for step in steps] for _ in range(arguments.repeats)]
        ratios = [computed["step"] / stored["step"] for computed, stored in pairs]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        for number, name in enumerate(sources):
            seconds = {part: statistics.median(pair[number][part] for pair in pairs) for part in (*PARTS, "step")}
            rate = arguments.batch / seconds["step"]
            if not number:
                once = (seconds["read"] + seconds["frozen ViT"]) / arguments.batch * COCO / 3600
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                memory = pool.apply(largest_memory, (folder, name == "stored", k, arguments))
            shares = [f"{seconds[part] / seconds['step']:.1%}" for part in PARTS]
            table.add_row(decoder, name, f"{rate:.2f}", *shares, f"{memory:.2f}", ratio if number else "")
            paper.add_row(decoder, name, f"{COCO / rate / 3600:.1f}")
    console = Console(width=150)
    console.print(table)
    console.print(paper)
    console.print(
        f"{size:,.0f} bytes an image, {size * COCO / 1e9:.1f} GB of tokens ({2 * size * COCO / 1e9:.1f} GB with mirror "
        f"images), computed once in {once:.1f} hours"
    )


if __name__ == "__main__":
    main()

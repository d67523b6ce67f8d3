"""Patches of all layers of a ViT in one pass, their probes in one fit, beside one run per layer over the same images.

python benchmarks/layers.py [--model vit_tiny_patch16_224] [--images 32] [--epochs 16] [--threads 1]

All but the last row write the same stores: 64 patches per image with their labels and colours, in half precision, from
drawn scenes; then a quadratic probe is fitted to every layer, the same epochs everywhere. A run per layer is measured
twice: through the whole model, and ending at its layer, which is the least that a run per layer can do. The last row is
the way of the first code published for IsSameObject: a run per layer that keeps no tokens and goes through the whole
model in every epoch (images and labels stay in memory here, where that code reads them again). Wall time and CPU time,
model built and scenes drawn in every run; the runs of one pass are repeated, those per layer add up. Whoever shares the
machine moves the wall time more than the CPU time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import Dataset

from ocl.binding.fitting import fit
from ocl.binding.pairs import sample_patches
from ocl.binding.patches import Patches, distinct_pairs
from ocl.binding.probes import Quadratic
from ocl.binding_study.patch_encoders import LayerTokens
from ocl.binding_study.patch_store import extract_patches, load_patches, objects_of
from ocl.data.collate import collate
from ocl.data.textured_scenes import TexturedScenes
from ocl.encoders.vit_layers import ViTLayers
from ocl.shapes import Batch
from ocl.store import FeatureStore


class Spent(NamedTuple):
    """Seconds: of the tokens and of the rest, and of all cores together."""

    tokens: float
    rest: float
    cpu: float

    @property
    def wall(self) -> float:
        return self.tokens + self.rest

    @staticmethod
    def sum(runs: Sequence[Spent]) -> Spent:
        return Spent(*(sum(part) for part in zip(*runs, strict=True)))


class WholeModel(LayerTokens):
    """Runs every block whichever layer is read."""

    def encode(self, batch: Batch) -> Tensor:
        layers = self.layers
        return torch.stack(layers.block_outputs(batch.images / 255, [*layers.layers, len(layers.vit.blocks) - 1])[:-1])


def cached(arguments: argparse.Namespace, kind: type[LayerTokens], layers: Sequence[int] | None, folder: str) -> Spent:
    """Tokens to disk, then the fits; `layers` None for all."""
    start, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(0)
    data: Dataset[dict[str, Tensor]] = TexturedScenes(arguments.images, image_size=arguments.size)
    encoder = kind(ViTLayers(arguments.model, (arguments.size,) * 2, layers, pretrained=False))
    store = extract_patches(encoder, data, folder, description=f"{arguments.images} scenes", progress=False)
    assert store is not None
    between = time.perf_counter()
    patches = load_patches(store)
    fit(Quadratic(patches.tokens.shape[-1], layers=len(patches.tokens)), patches, epochs=arguments.epochs)
    return Spent(between - start, time.perf_counter() - between, time.process_time() - cpu)


def uncached(arguments: argparse.Namespace, layer: int) -> Spent:
    """The whole model in every step of every epoch."""
    start, cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(0)
    data = TexturedScenes(arguments.images, image_size=arguments.size)
    encoder = WholeModel(ViTLayers(arguments.model, (arguments.size,) * 2, [layer], pretrained=False))
    batch = collate([data[index] for index in range(len(data))])
    labels = objects_of(batch, encoder.grid, 0.0, (), ())
    drawn = sample_patches(labels, 64, range(len(data)))
    probe = Quadratic(encoder.dim)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-3, fused=True)
    in_model = 0.0
    for _ in range(arguments.epochs):
        for images in torch.randperm(len(data)).split(32):
            before = time.perf_counter()
            tokens = encoder(Batch(batch.images[images])).take_along_dim(drawn[None, images, :, None], dim=2)
            in_model += time.perf_counter() - before
            patches = Patches(tokens, labels[images].gather(1, drawn[images]))
            optimizer.zero_grad()
            probe.loss(patches, distinct_pairs(patches)).sum().backward()
            optimizer.step()
    return Spent(in_model, time.perf_counter() - start - in_model, time.process_time() - cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--uncached", type=int, help="runs without stored tokens, by default one per layer")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    depth = len(ViTLayers(arguments.model, (arguments.size,) * 2, pretrained=False).vit.blocks)
    runs = depth if arguments.uncached is None else min(arguments.uncached, depth)
    with tempfile.TemporaryDirectory() as place:

        def once(number: int) -> Spent:
            return cached(arguments, LayerTokens, None, f"{place}/all-{number}")

        once(-1)  # not counted
        together, whole, ending, every = [once(0)], [], [], []
        for layer in range(depth):  # in turns, so that a busy machine slows all
            whole.append(cached(arguments, WholeModel, [layer], f"{place}/whole-{layer}"))
            ending.append(cached(arguments, LayerTokens, [layer], f"{place}/ending-{layer}"))
            if layer < runs:
                every.append(uncached(arguments, layer))
            if layer % max(1, depth // arguments.repeats) == 0:
                together.append(once(len(together)))
        tokens = load_patches(FeatureStore(f"{place}/all-0")).tokens
        for name in ("whole", "ending"):
            alone = [load_patches(FeatureStore(f"{place}/{name}-{layer}")).tokens for layer in range(depth)]
            np.testing.assert_array_equal(torch.cat(alone), tokens)
        size = sum(path.stat().st_size for path in Path(f"{place}/all-0").iterdir()) / arguments.images

    one = sorted(together, key=lambda spent: spent.wall)[len(together) // 2]
    rows = {
        f"all {depth} layers, one pass": one,
        f"{depth} runs through the whole model": Spent.sum(whole),
        f"{depth} runs, each ending at its layer": Spent.sum(ending),
    }
    if every:
        share = "" if runs == depth else f", {runs} measured"
        rows[f"{depth} runs, the whole model in every epoch{share}"] = Spent(
            *(depth / runs * part for part in Spent.sum(every))
        )
    table = Table(title=f"{arguments.model}, {arguments.images} images of {arguments.size}, {arguments.threads} thread")
    for name in ("", "tokens, s", "rest, s", "both, s", "times one pass", "CPU, s", "times its CPU time"):
        table.add_column(name, justify="right" if name else "left")
    for name, spent in rows.items():
        figures = (spent.tokens, spent.rest, spent.wall, spent.wall / one.wall, spent.cpu, spent.cpu / one.cpu)
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    totals = [spent.wall for spent in together]
    table.caption = (
        f"one pass: median of {len(totals)} ({min(totals):.1f} to {max(totals):.1f} s); the rest is the fits"
    )
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(
        table, f"{size / 1024:.0f} KiB per image on disk; the first three hold the same bytes of tokens", sep="\n"
    )


if __name__ == "__main__":
    main()

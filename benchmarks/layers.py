"""Patches of all layers of a ViT in one pass, their probes in one fit, beside one run per layer over the same images.

python benchmarks/layers.py [--model vit_tiny_patch16_224] [--images 96] [--epochs 16] [--threads 1]

Both write the same stores: 64 patches per image with their labels and colours, in half precision, from drawn scenes;
then a quadratic probe is fitted to every layer, the same epochs everywhere. A run per layer is measured twice: through
the whole model, and ending at its layer, which is the least that a run per layer can do. The first code published for
IsSameObject keeps no tokens and goes through the whole model in every epoch; its row is computed from the others. Wall
time, model built and scenes drawn in every run; the runs of one pass are repeated, those per layer add up.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import Dataset

from ocl.binding.fitting import fit
from ocl.binding.probes import Quadratic
from ocl.binding_study.patch_encoders import LayerTokens
from ocl.binding_study.patch_store import extract_patches, load_patches
from ocl.data.textured_scenes import TexturedScenes
from ocl.encoders.vit_layers import ViTLayers
from ocl.shapes import Batch
from ocl.store import FeatureStore


class WholeModel(LayerTokens):
    """Runs every block whichever layer is read."""

    def encode(self, batch: Batch) -> Tensor:
        layers = self.layers
        return torch.stack(layers.block_outputs(batch.images / 255, [*layers.layers, len(layers.vit.blocks) - 1])[:-1])


def seconds(
    arguments: argparse.Namespace, kind: type[LayerTokens], layers: Sequence[int] | None, folder: str
) -> tuple[float, float]:
    """Of the tokens and of the fit."""
    start = time.perf_counter()
    torch.manual_seed(0)
    data: Dataset[dict[str, Tensor]] = TexturedScenes(arguments.images, image_size=arguments.size)
    encoder: nn.Module = kind(ViTLayers(arguments.model, (arguments.size,) * 2, layers, pretrained=False))
    store = extract_patches(encoder, data, folder, description=f"{arguments.images} scenes", progress=False)
    assert store is not None
    between = time.perf_counter()
    patches = load_patches(store)
    fit(Quadratic(patches.tokens.shape[-1], layers=len(patches.tokens)), patches, epochs=arguments.epochs)
    return between - start, time.perf_counter() - between


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    depth = len(ViTLayers(arguments.model, (arguments.size,) * 2, pretrained=False).vit.blocks)
    with tempfile.TemporaryDirectory() as place:

        def once(number: int) -> tuple[float, float]:
            return seconds(arguments, LayerTokens, None, f"{place}/all-{number}")

        once(-1)  # not counted
        together, whole, ending = [once(0)], [], []
        for layer in range(depth):  # in turns, so that a busy machine slows all
            whole.append(seconds(arguments, WholeModel, [layer], f"{place}/whole-{layer}"))
            ending.append(seconds(arguments, LayerTokens, [layer], f"{place}/ending-{layer}"))
            if layer % max(1, depth // arguments.repeats) == 0:
                together.append(once(len(together)))
        every = load_patches(FeatureStore(f"{place}/all-0")).tokens
        for name in ("whole", "ending"):
            alone = [load_patches(FeatureStore(f"{place}/{name}-{layer}")).tokens for layer in range(depth)]
            np.testing.assert_array_equal(torch.cat(alone), every)
        size = sum(path.stat().st_size for path in Path(f"{place}/all-0").iterdir()) / arguments.images

    one = sorted(together, key=sum)[len(together) // 2]
    table = Table(title=f"{arguments.model}, {arguments.images} images of {arguments.size}, {arguments.threads} thread")
    for name in ("", "tokens, s", "fits, s", "both, s", "times one pass"):
        table.add_column(name, justify="right" if name else "left")
    through, to_layer = ([sum(part) for part in zip(*runs, strict=True)] for runs in (whole, ending))
    for name, spent in (
        (f"all {depth} layers, one pass", one),
        (f"{depth} runs through the whole model", through),
        (f"{depth} runs, each ending at its layer", to_layer),
        (f"{depth} runs through it in every epoch (computed)", [arguments.epochs * through[0], through[1]]),
    ):
        times = sum(spent) / sum(one)
        table.add_row(name, f"{spent[0]:.1f}", f"{spent[1]:.1f}", f"{sum(spent):.1f}", f"{times:.1f}")
    totals = [sum(spent) for spent in together]
    table.caption = f"one pass: median of {len(totals)} ({min(totals):.1f} to {max(totals):.1f} s)"
    Console().print(
        table, f"{size / 1024:.0f} KiB per image on disk; all three hold the same bytes of tokens", sep="\n"
    )


if __name__ == "__main__":
    main()

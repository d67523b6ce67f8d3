"""Patches of all layers of a ViT in one pass, beside one run per layer over the same images.

python benchmarks/layers.py [--model vit_tiny_patch16_224] [--images 96] [--threads 1]

Both write the same stores: 64 patches per image with their labels and colours, in half precision, from drawn scenes.
A run per layer is measured twice: through the whole model, as the published code for IsSameObject does, and ending at
its layer, which is the least that a run per layer can do. Wall time, model built and scenes drawn in every run; the
runs of one pass are repeated, those per layer add up.
"""

from __future__ import annotations

import argparse
import statistics
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


def seconds(arguments: argparse.Namespace, kind: type[LayerTokens], layers: Sequence[int] | None, folder: str) -> float:
    start = time.perf_counter()
    torch.manual_seed(0)
    data: Dataset[dict[str, Tensor]] = TexturedScenes(arguments.images, image_size=arguments.size)
    encoder: nn.Module = kind(ViTLayers(arguments.model, (arguments.size,) * 2, layers, pretrained=False))
    extract_patches(encoder, data, folder, description=f"{arguments.images} scenes", progress=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    depth = len(ViTLayers(arguments.model, (arguments.size,) * 2, pretrained=False).vit.blocks)
    with tempfile.TemporaryDirectory() as place:

        def once(number: int) -> float:
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

    one = statistics.median(together)
    table = Table(title=f"{arguments.model}, {arguments.images} images of {arguments.size}, {arguments.threads} thread")
    for name in ("", "seconds", "times one pass"):
        table.add_column(name, justify="right" if name else "left")
    spread = f"{one:.1f} ({min(together):.1f} to {max(together):.1f})"
    table.add_row(f"all {depth} layers, one pass", spread, "1")
    table.add_row(f"{depth} runs through the whole model", f"{sum(whole):.1f}", f"{sum(whole) / one:.1f}")
    table.add_row(f"{depth} runs, each ending at its layer", f"{sum(ending):.1f}", f"{sum(ending) / one:.1f}")
    Console().print(
        table, f"{size / 1024:.0f} KiB per image on disk; all three hold the same bytes of tokens", sep="\n"
    )


if __name__ == "__main__":
    main()

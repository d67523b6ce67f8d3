"""Run-length codes of masks, beside segment-anything's `mask_to_rle_pytorch` and pycocotools.

python benchmarks/run_lengths.py [--masks 192] [--size 480 640] [--threads 1] [--repeats 5]

Smoothed noise cut at a level, from single pixels to blobs of 60: the number of runs decides the cost. The programs take
turns, and every ratio is of neighbours; seconds are those of this process. Codes are compared before they are timed.
pycocotools gives compressed text, from an array in its own memory order, so `ocl` is timed with `compress` of the masks
beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from pycocotools import mask as coco
from rich.console import Console
from rich.table import Table
from segment_anything.utils.amg import mask_to_rle_pytorch
from torch import Tensor
from torch.nn.functional import interpolate

from ocl.masks import rle

GRAINS = (1, 4, 16, 60)
"""Pixels from one random value to the next."""


def noise(count: int, size: tuple[int, int], grain: int) -> Tensor:
    values = torch.randn(count, 1, -(-size[0] // grain), -(-size[1] // grain))
    masks: Tensor = interpolate(values, size, mode="bilinear")[:, 0] > 0.8
    return masks


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=192)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    title = f"{arguments.masks} masks of {arguments.size[1]} x {arguments.size[0]}, {arguments.threads} thread(s), ms"
    table = Table(title=f"{title}; median (least to most) of {arguments.repeats}")
    for name in (
        "grain",
        "runs per mask",
        "segment-anything",
        "ocl",
        "ratio",
        "pycocotools",
        "ocl compressed",
        "ratio",
    ):
        table.add_column(name, justify="right")
    for grain in GRAINS:
        masks = noise(arguments.masks, tuple(arguments.size), grain)
        columns = np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8))
        codes, texts = rle.encode(masks), coco.encode(columns)
        assert codes == mask_to_rle_pytorch(masks)
        assert [code["counts"].encode() for code in rle.compress(masks)] == [text["counts"] for text in texts]
        runs: list[Callable[[], object]] = [
            lambda m=masks: mask_to_rle_pytorch(m),  # type: ignore[misc]
            lambda m=masks: rle.encode(m),  # type: ignore[misc]
            lambda c=columns: coco.encode(c),  # type: ignore[misc]
            lambda m=masks: rle.compress(m),  # type: ignore[misc]
        ]
        rounds = [[seconds(run) for run in runs] for _ in range(arguments.repeats)]
        theirs, ours, pycoco, text = ([1000 * t for t in times] for times in zip(*rounds, strict=True))
        first = [a / b for a, b in zip(theirs, ours, strict=True)]
        second = [a / b for a, b in zip(pycoco, text, strict=True)]
        mean = sum(len(code["counts"]) for code in codes) / len(codes)
        cells = [spread(theirs, 0), spread(ours, 0), spread(first, 1), spread(pycoco, 0), spread(text, 0)]
        table.add_row(str(grain), f"{mean:.0f}", *cells, spread(second, 1))
    Console(width=170).print(table)


if __name__ == "__main__":
    main()

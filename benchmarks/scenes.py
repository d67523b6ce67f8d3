"""Drawn scenes per second and core: OMP_NUM_THREADS=1 python benchmarks/scenes.py [--seconds 2] [--batch-size 64]

"drawn": whole blocks of 32, as a worker draws them. "batches": items and collated batches, as training reads them with
no worker. "stored": random batches of the same scenes written once and read from a warm store. The median of five
rounds, in which all columns take turns, and the spread of the rounds in per cent.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ocl.data.clevr_like import ClevrLikeScenes
from ocl.data.collate import collate
from ocl.data.multi_dsprites import (
    BinarizedMultiDSprites,
    ColoredOnColoredMultiDSprites,
    ColoredOnGrayscaleMultiDSprites,
)
from ocl.data.order import EpochBatches
from ocl.data.scenes import Scenes
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.stored import StoredScenes
from ocl.data.tetrominoes import Tetrominoes
from ocl.data.textured_scenes import TexturedScenes
from ocl.generate import generate

SIZE, ROUNDS = 4096, 5
SETS: tuple[Scenes, ...] = (
    Tetrominoes(SIZE),
    BinarizedMultiDSprites(SIZE),
    ColoredOnGrayscaleMultiDSprites(SIZE),
    ColoredOnColoredMultiDSprites(SIZE),
    SpriteScenes(SIZE),
    TexturedScenes(SIZE, image_size=48),
    TexturedScenes(SIZE),
    ClevrLikeScenes(SIZE // 16),
)


def drawn(scenes: Scenes) -> Iterator[int]:
    generator = np.random.default_rng(0)
    while True:
        scenes.generate(generator, scenes.block)
        yield scenes.block


def batches(dataset: Scenes | StoredScenes, batch_size: int, run: int) -> Iterator[int]:
    order, epoch = EpochBatches(len(dataset), batch_size, run=run), 0
    while True:
        order.begin(epoch)
        for indices in order:
            yield len(collate(dataset.__getitems__(indices)))
        epoch += 1


def rate(work: Iterator[int], seconds: float) -> float:
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        count += next(work)
    return count / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each row and column, over all rounds")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title=f"images/s per core (one process, one thread; {os.cpu_count()} cores here)")
    for heading in ("data set", "size", "drawn", "batches", "stored"):
        table.add_column(heading, justify="left" if heading == "data set" else "right")
    with tempfile.TemporaryDirectory() as temporary:
        for number, scenes in enumerate(SETS):
            stored = generate(scenes, Path(temporary) / str(number), progress=False)
            assert stored is not None
            works = [
                drawn(scenes),
                batches(scenes, arguments.batch_size, scenes.block),
                batches(stored, arguments.batch_size, 1),
            ]
            rates = [[rate(work, arguments.seconds / ROUNDS) for work in works] for _ in range(ROUNDS)]
            cells = []
            for column in zip(*rates, strict=True):
                median = statistics.median(column)
                cells.append(f"{median:,.0f} ±{100 * (max(column) - min(column)) / 2 / median:.0f} %")
            table.add_row(type(scenes).__name__, "{} x {}".format(*scenes.image_size), *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

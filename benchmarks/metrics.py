"""Segmentation metrics, milliseconds per batch of 64 images: ours beside a loop over images with scikit-learn.

python benchmarks/metrics.py [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import adjusted_rand_score

from ocl.metrics import (
    PerImage,
    SegmentationMetrics,
    adjusted_rand_index,
    contingency,
    foreground_ari,
    label_map,
    mean_iou,
)

BATCH, SLOTS, OBJECTS = 64, 7, 5


def milliseconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median of `repeats` after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def scikit_learn_loop(labels: torch.Tensor, segmentation: torch.Tensor) -> list[float]:
    """ARI and FG-ARI of every image."""
    values = []
    for guess, true in zip(labels.flatten(1).numpy(), segmentation.flatten(1).numpy(), strict=True):
        values += [adjusted_rand_score(true, guess), adjusted_rand_score(true[true > 0], guess[true > 0])]
    return values


def both(counts: torch.Tensor) -> tuple[PerImage, PerImage]:
    return adjusted_rand_index(counts), foreground_ari(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    table = Table(title=f"{BATCH} images, {SLOTS} slots, {OBJECTS} objects: milliseconds per batch")
    table.add_column("step")
    columns = []
    for size in (64, 128, 320):
        table.add_column(f"{size} x {size}", justify="right")
        masks = torch.randn(BATCH, SLOTS, size // 4, size // 4).softmax(1)
        segmentation = torch.randint(0, OBJECTS + 1, (BATCH, size, size))
        labels = label_map(masks, (size, size))
        counts = contingency(labels, segmentation)
        ours = milliseconds(lambda x=labels, y=segmentation: both(contingency(x, y)))
        loop = milliseconds(lambda x=labels, y=segmentation: scikit_learn_loop(x, y), repeats=2)
        columns.append(
            {
                "soft masks -> label map": milliseconds(lambda x=masks, s=size: label_map(x, (s, s))),
                "label map -> contingency": milliseconds(lambda x=labels, y=segmentation: contingency(x, y)),
                "Hungarian mIoU from the table": milliseconds(lambda x=counts: mean_iou(x)),
                "all five from label maps": milliseconds(
                    lambda x=labels, y=segmentation: SegmentationMetrics().update(x, y)
                ),
                "all five from soft masks": milliseconds(
                    lambda x=masks, y=segmentation: SegmentationMetrics().update(x, y)
                ),
                "ARI and FG-ARI, ours": ours,
                "ARI and FG-ARI, scikit-learn loop": loop,
                "ratio": loop / ours,
            }
        )
    for step in columns[0]:
        table.add_row(step, *(f"{column[step]:.1f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()

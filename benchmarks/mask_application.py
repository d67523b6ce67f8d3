"""Applying 20 masks of 640 x 480 at 224 pixels: all at once, beside loops over the masks.

python benchmarks/mask_application.py [--threads 1] [--repeats 7] [--device cuda]

Two loops: the steps of OCCAM's public code (NumPy box, stretch to the photograph's size, mix, resize, crop), and the
shortest one that gives what `GreyCrop` gives (torchvision, straight to the output's size). Masks are ellipses whose
axes are 5 to 100 % of the photograph's. All take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torchvision.transforms.functional as TF
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ocl.masks.apply import Alpha, Blur, Grey, GreyCrop, OccamV1

HEIGHT, WIDTH, MASKS, SIZE = 480, 640, 20, 224


def ellipses(count: int) -> Tensor:
    """(1 count H W) bool, each with a pixel at least."""
    centre, axes = torch.rand(2, count, 1, 1), 0.025 + 0.475 * torch.rand(2, count, 1, 1)
    y = (torch.arange(HEIGHT)[:, None] + 0.5) / HEIGHT
    x = (torch.arange(WIDTH) + 0.5) / WIDTH
    return (((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 < 1)[None]


def published_loop(image: np.ndarray, masks: np.ndarray) -> Tensor:
    """image (H W 3) float64, masks (K H W) bool -> (K 3 S S)."""
    pictures = []
    for mask in masks:
        three = np.repeat(mask[:, :, None], 3, axis=2).astype(np.uint8)
        places = np.argwhere(three[..., 0] > 0)
        first, last = places.min(0), places.max(0)
        side = int((last - first + 1).max())
        top, left = (int(place) - side // 2 for place in (first + last) // 2)
        stretched = [
            TF.resize(
                TF.crop(torch.tensor(x.transpose(2, 0, 1)), top, left, side, side), [HEIGHT, WIDTH], antialias=True
            )
            for x in (image.astype(np.float32), three.astype(np.float32))
        ]
        mixed = (stretched[0] * stretched[1] + 0.5 * (1 - stretched[1])).numpy().transpose(1, 2, 0)
        resized = TF.resize(torch.tensor(mixed).permute(2, 0, 1), [SIZE], antialias=True)
        pictures.append(TF.center_crop(resized, [SIZE, SIZE]))
    return torch.stack(pictures)


def short_loop(image: Tensor, masks: Tensor) -> Tensor:
    """image (3 H W), masks (K H W) bool -> (K 3 S S)."""
    pictures = []
    for mask in masks:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        side = max(bottom - top, right - left)
        square = ((top + bottom - side) // 2, (left + right - side) // 2, side, side)
        shown, alpha = (
            TF.resize(TF.crop(x, *square), [SIZE, SIZE], antialias=True) for x in (image - 0.5, mask[None].float())
        )
        pictures.append(0.5 + alpha * shown)
    return torch.stack(pictures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    image, masks = torch.rand(1, 3, HEIGHT, WIDTH), ellipses(MASKS)
    array, stack = image[0].permute(1, 2, 0).double().numpy(), masks[0].numpy()
    image, masks = image.to(arguments.device), masks.to(arguments.device)
    runs: dict[str, Callable[[], Tensor]] = {
        "published steps, loop on the CPU": lambda: published_loop(array, stack),
        "torchvision, loop": lambda: short_loop(image[0], masks[0]),
    }
    for apply in (GreyCrop(SIZE), OccamV1(SIZE), Grey(SIZE), Blur(SIZE), Alpha(SIZE)):
        runs[type(apply).__name__] = lambda apply=apply: apply(image, masks)
    synchronise = torch.cuda.synchronize if arguments.device != "cpu" else lambda: None

    def milliseconds(run: Callable[[], Tensor]) -> float:
        start = time.perf_counter()
        run()
        synchronise()
        return 1000 * (time.perf_counter() - start)

    for run in runs.values():
        run()
    rounds = [[milliseconds(run) for run in runs.values()] for _ in range(arguments.repeats)]
    title = f"{MASKS} masks of {WIDTH} x {HEIGHT} to {SIZE}, {arguments.device}, {arguments.threads} thread(s)"
    table = Table(title=title)
    for name in ("", "ms", "published loop over it", "torchvision loop over it"):
        table.add_column(name, justify="right" if name else "left")
    for index, name in enumerate(runs):
        ratios = (f"{statistics.median(times[loop] / times[index] for times in rounds):.1f}" for loop in (0, 1))
        table.add_row(name, f"{statistics.median(times[index] for times in rounds):.1f}", *ratios)
    Console(width=100).print(table)
    apart = (runs["torchvision, loop"]().cpu() - runs["GreyCrop"]()[0].cpu()).abs().max()
    print(f"GreyCrop and the torchvision loop differ by at most {float(apart):.1e}")
    apart = (runs["published steps, loop on the CPU"]() - runs["OccamV1"]()[0].cpu()).abs().max()
    print(f"OccamV1 and the published steps differ by at most {float(apart):.1e}")


if __name__ == "__main__":
    main()

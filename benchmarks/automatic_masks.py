"""Masks of everything in one image, beside segment-anything's own `SamAutomaticMaskGenerator`.

python benchmarks/automatic_masks.py [--image photo.jpg] [--points-per-side 32] [--threads 1] [--size vit_b] [--seed 0]

Same random weights (`random_sam`; with --checkpoint trained ones), same image, each generator once in a fresh process,
one after the other: seconds and where they go, processor time (which a busy machine changes less), peak memory above
that of the loaded model, and whether the masks agree. Random masks are ragged, so the default stability threshold is
low; trained weights take 0.95.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

STAGES = ["image encoder", "mask decoder", "enlarging", "stability", "boxes", "run-length codes"]


class Stopwatch:
    """Seconds inside functions, by stage, and how many masks were enlarged."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.enlarged = 0

    def watch(self, owner: Any, name: str, stage: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments, **keywords)
            self.seconds[stage] += time.perf_counter() - start
            if stage == "enlarging":
                self.enlarged += result.flatten(0, -3).shape[0]
            return result

        setattr(owner, name, timed)


def watch_package(watch: Stopwatch) -> None:
    from segment_anything import SamPredictor, automatic_mask_generator
    from segment_anything.modeling import MaskDecoder, Sam

    watch.watch(SamPredictor, "set_image", "image encoder")
    watch.watch(MaskDecoder, "forward", "mask decoder")
    watch.watch(Sam, "postprocess_masks", "enlarging")
    watch.watch(automatic_mask_generator, "calculate_stability_score", "stability")
    watch.watch(automatic_mask_generator, "batched_mask_to_box", "boxes")
    watch.watch(automatic_mask_generator, "mask_to_rle_pytorch", "run-length codes")


def watch_ocl(watch: Stopwatch) -> None:
    from ocl.masks import rle
    from ocl.masks.sam import generator
    from ocl.masks.sam.decoder import PromptDecoder
    from ocl.masks.sam.encoder import SamEncoder
    from ocl.masks.sam.frame import Frame
    from ocl.masks.sam.image_side import ImageSide

    watch.watch(SamEncoder, "__call__", "image encoder")
    for owner, name in ((ImageSide, "__init__"), (PromptDecoder, "tokens")):
        watch.watch(owner, name, "mask decoder")
    watch.watch(PromptDecoder, "quality", "mask decoder")
    watch.watch(PromptDecoder, "logits", "mask decoder")
    watch.watch(Frame, "enlarge", "enlarging")
    watch.watch(generator, "stability_score", "stability")
    watch.watch(generator, "mask_boxes", "boxes")
    watch.watch(rle, "encode", "run-length codes")


def peak(reset: bool = False) -> float:
    """MB: the most memory of this process since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(kind: str, arguments: argparse.Namespace, image: NDArray[np.uint8]) -> dict[str, Any]:
    """One generator on the image, in a process of its own."""
    from segment_anything import SamAutomaticMaskGenerator

    from ocl.masks.sam import AutomaticMaskGenerator, load_sam, random_sam
    from ocl.shapes import Batch

    torch.set_num_threads(arguments.threads)
    model = random_sam(arguments.seed) if not arguments.checkpoint else load_sam(arguments.checkpoint, arguments.size)
    options = {
        "points_per_side": arguments.points_per_side,
        "pred_iou_thresh": arguments.pred_iou_thresh,
        "stability_score_thresh": arguments.stability_score_thresh,
        "box_nms_thresh": arguments.box_nms_thresh,
        "output_mode": "uncompressed_rle",
    }
    watch = Stopwatch()
    (watch_package if kind == "package" else watch_ocl)(watch)
    generator: Any = (SamAutomaticMaskGenerator if kind == "package" else AutomaticMaskGenerator)(model, **options)
    before = peak(reset=True)
    start, used = time.perf_counter(), time.process_time()
    if kind == "tensors":
        masks: Tensor = generator(Batch(torch.from_numpy(image).permute(2, 0, 1)[None])).masks[0]
        found = masks.shape[0]
    else:
        records = generator.generate(image)
        found = len(records)
    seconds = time.perf_counter() - start
    used = time.process_time() - used
    result = {"seconds": seconds, "used": used, "stages": watch.seconds, "enlarged": watch.enlarged, "found": found}
    result["memory"] = peak() - before
    if kind != "tensors":
        result["records"] = records
    return result


def agreement(package: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """How two lists of masks compare."""
    from ocl.masks import rle

    if len(package) != len(ours):
        return f"different: {len(package)} and {len(ours)} masks"
    keys = ("point_coords", "bbox", "crop_box")
    same = sum(all(a[key] == b[key] for key in keys) for a, b in zip(package, ours, strict=True))
    codes = [[record["segmentation"] for record in records] for records in (package, ours)]
    pixels = int((rle.decode(codes[0]) ^ rle.decode(codes[1])).sum()) if package else 0
    iou = max((abs(a["predicted_iou"] - b["predicted_iou"]) for a, b in zip(package, ours, strict=True)), default=0.0)
    return (
        f"{len(ours)} masks in both, {same} with the same point, box and place in the list; {pixels} pixels differ of "
        f"{sum(record['area'] for record in package)} inside; predicted IoU by at most {iou:.0e}"
    )


def picture(path: str | None, seed: int) -> NDArray[np.uint8]:
    """(480 640 3): smooth random colours, or the photograph."""
    if path:
        return np.asarray(Image.open(path).convert("RGB"))
    noise = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image")
    parser.add_argument("--checkpoint")
    parser.add_argument("--size", default="vit_b")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--points-per-side", type=int, default=32)
    parser.add_argument("--pred-iou-thresh", type=float, default=0.88)
    parser.add_argument("--stability-score-thresh", type=float, default=0.2)
    parser.add_argument("--box-nms-thresh", type=float, default=0.98)
    arguments = parser.parse_args()
    image = picture(arguments.image, arguments.seed)

    results = {}
    for kind in ("package", "rle", "tensors"):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as processes:
            results[kind] = processes.submit(measure, kind, arguments, image).result()

    title = (
        f"{arguments.points_per_side}² points, {image.shape[1]} × {image.shape[0]} pixels, {arguments.threads} thread"
    )
    table = Table(title=f"SAM, {title}; seconds")
    table.add_column("")
    for name in ("package", "ocl, run-length codes", "ocl, tensors"):
        table.add_column(name, justify="right")
    rows = [(stage, [result["stages"][stage] for result in results.values()]) for stage in STAGES]
    rest = [result["seconds"] - sum(result["stages"].values()) for result in results.values()]
    for stage, seconds in [*rows, ("rest", rest)]:
        table.add_row(stage, *(f"{value:.2f}" for value in seconds))
    table.add_section()
    total, used = results["package"]["seconds"], results["package"]["used"]
    table.add_row("all", *(f"{result['seconds']:.1f}" for result in results.values()))
    table.add_row("faster", *(f"{total / result['seconds']:.2f}" for result in results.values()))
    table.add_row("all, of processor time", *(f"{result['used']:.1f}" for result in results.values()))
    table.add_row("less processor time", *(f"{used / result['used']:.2f}" for result in results.values()))
    table.add_row("peak memory above the model, MB", *(f"{result['memory']:.0f}" for result in results.values()))
    table.add_row("masks enlarged", *(str(result["enlarged"]) for result in results.values()))
    table.add_row("masks found", *(str(result["found"]) for result in results.values()))
    console = Console(width=120)
    console.print(table)
    console.print(agreement(results["package"]["records"], results["rle"]["records"]))


if __name__ == "__main__":
    main()

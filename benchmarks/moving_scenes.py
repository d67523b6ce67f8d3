"""How well slots stay on their objects in clips of moving sprites: started anew every frame, carried over, and trained.

python benchmarks/moving_scenes.py [--seeds 0 1 2] [--clips 64] [--folder runs/moving_scenes] [--threads 1]

All begin with the packaged image model. "every frame for itself": the same starts in every frame, nothing trained.
"carried": each frame starts from the slots of the one before, with all iterations of the image model or with two.
The last two train the predictor on clips of 8 frames, without and with contrast: `ocl fit` of
configs/video/carried_sprites.yaml and configs/video/slot_contrast_sprites.yaml for every seed, into --folder; runs that
are there already are only measured. A seed draws the starts, and the training of those that are trained.

Measured on held-out clips of 12 frames: FG-ARI and mBO of whole clips, switches per object (frames with fewer than 16
of its pixels are passed over), and FG-ARI frame by frame. Intervals: 95 %, bootstrap over clips, each with its mean
over seeds; in brackets what the seeds gave.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import ocl
from ocl import checkpoints
from ocl.data.collate import collate
from ocl.data.moving_scenes import MovingScenes
from ocl.fit import run
from ocl.instantiate import instantiate
from ocl.metrics.clustering import foreground_ari
from ocl.metrics.labels import contingency
from ocl.metrics.overlap import mean_best_overlap
from ocl.metrics.video import identity_switches
from ocl.representations import FrozenSlotModel
from ocl.shapes import Batch
from ocl.starting_weights import take_weights

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "video"
TRAINED = {"predictor trained": "carried_sprites", "predictor trained + SlotContrast": "slot_contrast_sprites"}
MEASURES = ("switches per object", "video FG-ARI", "video mBO", "FG-ARI by the frame")
FRAMES, BATCH, LEAST_PIXELS, RESAMPLES = 12, 16, 16, 2000


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return content


def trained(name: str, seed: int, folder: Path) -> Any:
    root = folder / f"{name}-{seed}"
    if not (root / "model" / "manifest.json").is_file():
        config = str(CONFIGS / f"{name}.yaml")
        run(["fit", "--config", config, f"--seed_everything={seed}", f"--trainer.default_root_dir={root}"])
    return checkpoints.load(root / "model")


def models(seed: int, folder: Path) -> Iterator[tuple[str, bool, Any]]:
    """Name, whether slots are carried, model."""
    packaged = checkpoints.load(ocl.checkpoint_at("sprites"))
    yield "every frame for itself", False, packaged
    yield "carried", True, packaged
    fewer = instantiate(read("carried_sprites")["model"]["model"])
    take_weights(fewer, "sprites")
    yield "carried, two iterations", True, fewer
    for name, config in TRAINED.items():
        yield name, True, trained(config, seed, folder)


@torch.no_grad()
def measured(model: Any, carried: bool, clips: MovingScenes, seed: int) -> NDArray[np.float64]:
    """(clips, measures); NaN where a clip does not count."""
    encoder = FrozenSlotModel(model, initial_seed=seed, decoder_masks=True)
    rows = []
    for start in range(0, len(clips), BATCH):
        batch = collate(clips.__getitems__(range(start, min(start + BATCH, len(clips)))))
        labels: Any = batch.segmentation
        frames: list[Any] = []
        slots = None
        for images in batch.images.unbind(1):
            frame = Batch(images)
            slots = encoder(frame) if slots is None or not carried else encoder.following(frame, slots.vectors)
            frames.append(slots.masks)
        masks = torch.stack(frames, dim=1)
        table = contingency(masks, labels)
        by_frame = foreground_ari(contingency(masks.flatten(0, 1), labels.flatten(0, 1)))
        values = [identity_switches(masks, labels, least_pixels=LEAST_PIXELS)]
        values += [foreground_ari(table), mean_best_overlap(table)]
        columns = [one.values.masked_fill(~one.counted, torch.nan) for one in values]
        alone = by_frame.values.masked_fill(~by_frame.counted, torch.nan).unflatten(0, labels.shape[:2])
        rows.append(torch.stack([*columns, alone.nanmean(dim=1)], dim=1))
    return torch.cat(rows).numpy()


def summary(values: NDArray[np.float64]) -> str:
    """(seeds, clips) -> mean, its interval over clips and the means of the seeds."""
    over_seeds = np.nanmean(values, axis=0)
    drawn = np.random.default_rng(0).integers(len(over_seeds), size=(RESAMPLES, len(over_seeds)))
    low, high = np.quantile(np.nanmean(over_seeds[drawn], axis=1), [0.025, 0.975])
    seeds = ", ".join(f"{value:.2f}" for value in np.nanmean(values, axis=1))
    return f"{np.nanmean(over_seeds):.3f} ({low:.3f} to {high:.3f}) [{seeds}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("runs/moving_scenes"))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    drawn = read("carried_sprites")["data"]["val"]["init_args"]
    clips = MovingScenes(**{**drawn, "size": arguments.clips, "seed": 3, "frames": FRAMES})
    found: dict[str, list[NDArray[np.float64]]] = {}
    for seed in arguments.seeds:
        for name, carried, model in models(seed, arguments.folder):
            found.setdefault(name, []).append(measured(model, carried, clips, seed))
    table = Table(title=f"{arguments.clips} clips of {FRAMES} frames, {len(arguments.seeds)} seed(s)")
    table.add_column("slots")
    for measure in MEASURES:
        table.add_column(measure, justify="right")
    for name, values in found.items():
        table.add_row(name, *(summary(column) for column in np.moveaxis(np.stack(values), -1, 0)))
    Console(width=200).print(table)


if __name__ == "__main__":
    main()

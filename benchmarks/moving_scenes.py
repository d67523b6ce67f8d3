"""How often objects change slots in clips of moving sprites: every frame for itself, carried slots, and contrast.

python benchmarks/moving_scenes.py [--steps 3000] [--seeds 0 1 2] [--contrast 0.01] [--clips 64] [--threads 1]

The three are one model (learned starts, K 6, patch decoder, 32 pixels), trained on the same clips of 4 frames in the
same order and measured on held-out clips of 12: FG-ARI and mBO of whole clips, and switches per object, where frames
with fewer than 8 of its pixels are passed over.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from rich.console import Console
from rich.table import Table

from ocl.data.collate import collate
from ocl.data.moving_scenes import MovingScenes
from ocl.decoders.patch import PatchDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.reconstruction import PixelReconstruction
from ocl.losses.slot_contrast import SlotContrast
from ocl.metrics.video import VideoMetrics
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch, frames_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots
from ocl.slots.predictor import SlotPredictor
from ocl.video import VideoModel

SIZE, DIM, SLOTS, BATCH = 32, 32, 6, 8
VARIANTS = ("every frame for itself", "carried", "carried + contrast")


def model_of(carried: bool) -> ObjectCentricModel:
    encoder, starts = CNNEncoder((SIZE, SIZE), DIM, channels=24, strides=(2, 2)), LearnedSlots(SLOTS, DIM)
    grouping, decoder = SlotAttention(DIM, hidden_dim=64), PatchDecoder(DIM, (8, 8), 4, 64)
    if carried:
        return VideoModel(encoder, starts, grouping, decoder, SlotPredictor(DIM))
    return ObjectCentricModel(encoder, starts, grouping, decoder)


def trained(variant: str, seed: int, steps: int, contrast: float) -> ObjectCentricModel:
    torch.manual_seed(seed)
    model = model_of(carried=variant != VARIANTS[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-4)
    scenes = MovingScenes(steps * BATCH, seed=100 + seed, frames=4, image_size=SIZE)
    pixels, consistent = PixelReconstruction(), SlotContrast()
    for step in range(steps):
        clips = frames_as_float(collate(scenes.__getitems__(range(step * BATCH, (step + 1) * BATCH))).images)
        batch = Batch(clips if isinstance(model, VideoModel) else clips.flatten(0, 1))
        output = model(batch.images)
        loss = pixels(output, batch)
        if variant == VARIANTS[2]:
            loss = loss + contrast * consistent(output, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 4e-4 * min(1, (step + 1) / 200)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def measured(model: ObjectCentricModel, clips: int) -> dict[str, float]:
    metrics = VideoMetrics(least_pixels=8)
    held_out = MovingScenes(clips, seed=1, frames=12, image_size=SIZE)
    for start in range(0, clips, BATCH):
        batch = collate(held_out.__getitems__(range(start, min(start + BATCH, clips))))
        images = frames_as_float(batch.images)
        if isinstance(model, VideoModel):
            masks = model(images).decoded.masks
        else:
            masks = model(images.flatten(0, 1)).decoded.masks.unflatten(0, images.shape[:2])
        metrics.update(masks, batch.segmentation)
    return {name: float(value) for name, value in metrics.compute().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contrast", type=float, default=0.01)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(title=f"{arguments.clips} held-out clips; mean (least to most) of {len(arguments.seeds)} seed(s)")
    table.add_column("variant")
    for name in VideoMetrics.names:
        table.add_column(name, justify="right")
    for variant in VARIANTS:
        found = [
            measured(trained(variant, seed, arguments.steps, arguments.contrast), arguments.clips)
            for seed in arguments.seeds
        ]
        columns = ([figures[name] for figures in found] for name in VideoMetrics.names)
        table.add_row(variant, *(f"{statistics.mean(c):.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""A trained model on a held-out set: segmentation by a named protocol, how slots share the image, where walks end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from ocl.data.collate import collate
from ocl.losses.walk_measures import object_return, slot_return
from ocl.metrics.image_mean import PerImage
from ocl.metrics.points import point_error
from ocl.metrics.protocols import Protocol
from ocl.metrics.slot_maps import SLOT_MAP_MEASURES, slot_map_measures
from ocl.pictures import slot_grid
from ocl.shapes import Batch, Output, images_as_float

PICTURED = 4
SEED = 2**31 - 1

MEASURES = (
    *("ari", "foreground_ari", "mean_best_overlap", "mean_iou", "corloc", "panoptic_quality"),
    *(f"{maps}_{measure}" for maps in ("decoder", "attention") for measure in SLOT_MAP_MEASURES),
    *("slot_return", "object_return"),
    *("first_point_error", "last_point_error"),
)
"""Names of `evaluate`: six of segmentation, four of the decoder's masks and of the grouping's attention, two of walks
between slots and tokens, which need both to be of one width, and the distance of the points that slots predict in the
first and in the last iteration from the objects' positions."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: Dataset[dict[str, Tensor]],
    protocol: Protocol,
    images: int = 320,
    batch_size: int = 32,
    device: str = "cpu",
) -> tuple[dict[str, float | None], Tensor]:
    """Measure decoder masks on the first `images` items, without weak labels, every image from its own random start.

    The starts are drawn from one fixed seed, so figures of two models differ by their weights only.

    Returns:
        measure -> mean over the images where it is defined (None where it is defined for no image, or where the
        grouping gives no attention); and a picture (3 H' W') uint8 of the first four images with their slots.

    Raises:
        ValueError: no image asked for, or images without a segmentation.
    """
    if images < 1:
        raise ValueError(f"an evaluation needs at least one image, got {images}.")
    count = min(images, len(dataset))  # type: ignore[arg-type]
    loader = DataLoader(Subset(dataset, range(count)), batch_size, collate_fn=collate)
    model = model.to(device).eval()
    found: dict[str, list[PerImage]] = {name: [] for name in MEASURES}
    picture = torch.empty(0)
    with torch.random.fork_rng(devices=[] if device == "cpu" else None):
        torch.manual_seed(SEED)
        for batch in loader:
            if batch.segmentation is None:
                raise ValueError("a benchmark needs a test (or val) set with a true segmentation; this one gives none.")
            output: Output = model(images_as_float(batch.images.to(device)))
            batch.segmentation = batch.segmentation.to(device)
            batch.objects = {name: values.to(device) for name, values in batch.objects.items()}
            for name, values in _measures(output, batch, protocol).items():
                found[name].append(values)
            if not picture.numel():
                picture = _picture(batch, output)
    return {name: _mean(parts) for name, parts in found.items()}, picture


def _measures(output: Output, batch: Batch, protocol: Protocol) -> dict[str, PerImage]:
    assert batch.segmentation is not None
    masks, attention, valid = output.decoded.masks, output.slots.masks, output.slots.valid
    measures = protocol.measures(masks, batch.segmentation, valid)
    for name, maps in (("decoder", masks), ("attention", attention)):
        if maps is not None:
            measures |= {f"{name}_{measure}": found for measure, found in slot_map_measures(maps, valid).items()}
    if output.slots.vectors.shape[-1] == output.tokens.tokens.shape[-1]:
        walks = {"slot_return": slot_return(output, batch), "object_return": object_return(output, batch)}
        measures |= {name: PerImage(values.nan_to_num(), ~values.isnan()) for name, values in walks.items()}
    points = output.slots.notes.get("points")  # (B T K 2)
    if points is not None and "position" in batch.objects:
        for name, predicted in (("first", points[:, 0]), ("last", points[:, -1])):
            places, visible = batch.objects["position"], batch.objects["visible"]
            measures[f"{name}_point_error"] = point_error(predicted, places, visible, valid)
    return measures


def _mean(parts: list[PerImage]) -> float | None:
    counted = sum(float(part.counted.sum()) for part in parts)
    return sum(float((part.values * part.counted).sum()) for part in parts) / counted if counted else None


def _picture(batch: Batch, output: Output) -> Tensor:
    images = (images_as_float(batch.images[:PICTURED]) * 255).round().to(torch.uint8)
    prediction = output.decoded.prediction[:PICTURED].cpu()
    masks = output.decoded.masks[:PICTURED].cpu()
    return slot_grid(images, masks, prediction if prediction.ndim == 4 else None)

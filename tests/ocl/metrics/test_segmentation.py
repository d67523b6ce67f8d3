"""The torchmetrics classes: any split into batches and processes gives the same mean."""

import math
import subprocess
import sys

import pytest
import torch
import torch.distributed as distributed

from ocl.metrics import (
    AdjustedRandIndex,
    BoxCorLoc,
    CorLoc,
    ForegroundARI,
    MeanBestOverlap,
    MeanIoU,
    SegmentationMetrics,
    label_map,
    segmentation_measures,
)

SINGLE = {
    "ari": AdjustedRandIndex,
    "foreground_ari": ForegroundARI,
    "mean_best_overlap": MeanBestOverlap,
    "mean_iou": MeanIoU,
    "corloc": CorLoc,
}


def scenes(count, size=32, generator=None):
    """Soft masks and label maps; some images have no object and some are ignored altogether."""
    segmentation = torch.randint(0, 5, (count, size, size), generator=generator)
    segmentation[::5] = 0
    segmentation[1::7] = -1
    hint = torch.nn.functional.one_hot(segmentation.clamp(min=0), 6).permute(0, 3, 1, 2).float()
    noise = torch.randn(count, 6, size, size, generator=generator)
    return (hint * 2 + noise).softmax(1), segmentation


def values(metric):
    computed = metric.compute()
    return computed if isinstance(computed, dict) else {"value": computed}


def test_the_collection_equals_the_single_metrics_and_the_per_image_values():
    masks, segmentation = scenes(23)
    together = SegmentationMetrics()
    together.update(masks, segmentation)
    measures = segmentation_measures(masks, segmentation)
    for name, metric in ((name, kind()) for name, kind in SINGLE.items()):
        metric.update(masks, segmentation)
        per_image, counted = measures[name]
        assert float(metric.compute()) == pytest.approx(float(per_image[counted].mean()), abs=1e-14)
        assert float(together.compute()[name]) == pytest.approx(float(metric.compute()), abs=1e-14)
    assert not measures["foreground_ari"].counted.all()
    assert measures["ari"].counted.sum() > measures["foreground_ari"].counted.sum()


@pytest.mark.parametrize("metric", [SegmentationMetrics, BoxCorLoc, *SINGLE.values()])
def test_unequal_batches_change_nothing(metric):
    masks, segmentation = scenes(40)
    whole, parts = metric(), metric()
    whole.update(masks, segmentation)
    for part in (slice(0, 3), slice(3, 4), slice(4, 40)):
        parts.update(masks[part], segmentation[part])
    for name, value in values(whole).items():
        assert value.dtype == torch.float64
        assert float(values(parts)[name]) == pytest.approx(float(value), abs=1e-14)


def test_perfect_masks_score_one_everywhere_at_a_lower_resolution_too():
    coarse = torch.randint(0, 5, (8, 16, 16))
    masks = torch.nn.functional.one_hot(coarse, 7).permute(0, 3, 1, 2).float()
    metrics = SegmentationMetrics(background=True)
    metrics.update(masks, label_map(masks, (128, 128)))
    assert all(float(value) == 1 for value in metrics.compute().values())


def test_slots_that_are_not_valid_are_left_out():
    masks, segmentation = scenes(6)
    valid = torch.ones(6, 6, dtype=torch.bool)
    valid[:, 4:] = False
    metrics, cut = SegmentationMetrics(), SegmentationMetrics()
    metrics.update(masks, segmentation, valid)
    cut.update(masks[:, :4], segmentation)
    assert metrics.totals.equal(cut.totals)


def test_nothing_to_count_is_nan_and_reset_forgets():
    metrics = SegmentationMetrics()
    metrics.update(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64))
    computed = metrics.compute()
    assert math.isnan(computed["foreground_ari"])
    assert math.isfinite(computed["ari"])
    metrics.reset()
    assert metrics.images.sum() == 0


def test_half_precision_models_keep_the_sums_in_float64():
    masks, segmentation = scenes(9)
    metrics = SegmentationMetrics()
    metrics.update(masks, segmentation)
    before = metrics.compute()
    for change in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float()):
        assert change(metrics).totals.dtype == torch.float64
        assert metrics.compute() == before
        metrics.reset()
        assert metrics.totals.dtype == torch.float64
        metrics.update(masks, segmentation)


def shard(rank, folder):
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    masks, segmentation = scenes(41, generator=torch.Generator().manual_seed(3))
    share = slice(0, 9) if rank == 0 else slice(9, 41)  # unequal on purpose
    metrics, single = SegmentationMetrics(), ForegroundARI()
    metrics.update(masks[share], segmentation[share])
    single.update(masks[share], segmentation[share])
    torch.save({**metrics.compute(), "single": single.compute()}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_compute_what_one_computes(tmp_path):
    children = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [child.wait(timeout=600) for child in children] == [0, 0]
    masks, segmentation = scenes(41, generator=torch.Generator().manual_seed(3))
    metrics = SegmentationMetrics()
    metrics.update(masks, segmentation)
    expected = metrics.compute()
    for rank in range(2):
        computed = torch.load(tmp_path / f"{rank}.pt")
        assert float(computed.pop("single")) == pytest.approx(float(expected["foreground_ari"]), abs=1e-14)
        assert {name: float(value) for name, value in computed.items()} == pytest.approx(
            {name: float(value) for name, value in expected.items()}, abs=1e-14
        )


if __name__ == "__main__":
    shard(int(sys.argv[1]), sys.argv[2])

"""The discovery table against closed forms: true masks score one, a grid and a whole mask what counting says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ocl.data.bsds500 import BSDS500
from ocl.data.collate import collate
from ocl.discover import discover, grid_labels
from ocl.masks.base import Masks
from ocl.masks.sources import Felzenszwalb, Grid
from ocl.masks.sources import TrueMasks as TrueSegments
from ocl.representations import ObjectEncoder, OracleObjects
from ocl.shapes import Batch, Slots


class TrueMasks(ObjectEncoder):
    requires = frozenset({"segmentation"})
    num_slots, dim = 4, 1

    def encode(self, batch: Batch) -> Slots:
        assert batch.segmentation is not None
        masks = torch.nn.functional.one_hot(batch.segmentation, 4).movedim(-1, 1).float()
        return Slots.of(torch.zeros(len(batch), 4, 1), masks)


def quadrants(count: int) -> Batch:
    """Labels 0..3 in the four quadrants of 8 x 8 pixels: three objects, and the background in the first."""
    labels = torch.arange(4).view(2, 2).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return Batch(torch.zeros(count, 3, 8, 8), labels.expand(count, -1, -1).clone())


def test_closed_forms() -> None:
    rows = discover({"true": TrueMasks()}, [quadrants(3), quadrants(2)])
    found = {(row["name"], row["measure"]): row["value"] for row in rows}
    for measure in ("ari", "foreground_ari", "mean_best_overlap", "mean_iou", "corloc"):
        assert found["true", measure] == pytest.approx(1)
        assert found["grid 2 x 2", measure] == pytest.approx(1)  # four slots: the grid is the truth here
    assert found["whole image", "ari"] == pytest.approx(0)
    assert found["whole image", "mean_best_overlap"] == pytest.approx(16 / 64)
    assert found["whole image", "mean_iou"] == pytest.approx(16 / 64 / 3)  # one mask for three objects
    assert all(row["images"] == 5 and row["low"] <= row["value"] <= row["high"] for row in rows)


def test_mask_sources_and_recorded_segmentations() -> None:
    batches = [quadrants(3), quadrants(2)]
    sources = {"true": TrueSegments(), "with background": TrueSegments(True), "grid": Grid(2, 2), "none": nothing}
    rows = discover(sources, batches, recorded={"recorded": batches})
    found = {(row["name"], row["measure"]): row["value"] for row in rows}
    for name in ("true", "with background", "grid", "recorded"):
        assert found[name, "mean_best_overlap"] == pytest.approx(1)
        assert found[name, "foreground_ari"] == pytest.approx(1)
    assert found["none", "mean_best_overlap"] == found["none", "corloc"] == 0
    assert {name for name, _ in found} == {*sources, "recorded", "whole image"}
    swapped = [quadrants(3), quadrants(2)]
    swapped[1].images = swapped[1].images + 0.1
    with pytest.raises(ValueError, match="recorded must hold segmentations of the same images"):
        discover({}, batches, recorded={"recorded": swapped})
    with pytest.raises(ValueError, match="recorded ended before the others"):
        discover({}, batches, recorded={"recorded": batches[:1]})
    with pytest.raises(ValueError, match="batches ended before the others"):
        discover({}, batches[:1], recorded={"recorded": batches})


def test_no_row_hides_another() -> None:
    batches = [quadrants(1)]
    for name in ("whole image", "grid 2 x 2", "recorded"):
        with pytest.raises(ValueError, match=f"{name} is there twice"):
            discover({"slots": TrueMasks(), name: TrueSegments()}, batches, recorded={"recorded": batches})


def test_the_best_of_overlapping_masks_is_on_top() -> None:
    batch = quadrants(1)

    def overlapping(batch: Batch) -> Masks:
        masks = torch.ones(1, 5, 8, 8, dtype=torch.bool)
        masks[:, :4] = TrueSegments(True)(batch).masks
        return Masks.of(masks, torch.tensor([[0.5, 0.6, 0.7, 0.8, 0.4]]))

    rows = discover({"overlapping": overlapping}, [batch])
    found = {row["measure"]: row["value"] for row in rows if row["name"] == "overlapping"}
    assert found["mean_best_overlap"] == pytest.approx(1)


def nothing(batch: Batch) -> Masks:
    return Masks.of(torch.zeros(len(batch), 0, 8, 8, dtype=torch.bool))


def test_people_agree_with_each_other_more_than_with_a_grid(test_data: Path) -> None:
    first, second = (BSDS500(test_data / "BSDS500", "val", 128, person) for person in (0, 1))
    batches = [collate([first[i] for i in range(24)])]
    others = [collate([second[i] for i in range(24)])]
    sources = {"superpixels": Felzenszwalb(300, min_size=100), "grid": Grid(3, 4), "true": TrueSegments()}
    rows = discover(sources, batches, recorded={"second person": others})
    best = {row["name"]: row["value"] for row in rows if row["measure"] == "mean_best_overlap"}
    assert best["true"] == pytest.approx(1)
    assert best["second person"] > 1.3 * best["superpixels"]
    assert best["superpixels"] > 1.1 * best["grid"]
    assert best["grid"] > best["whole image"]


def test_a_grid_has_equal_cells() -> None:
    labels = grid_labels((12, 9), 3, 3)
    assert labels.unique(return_counts=True)[1].tolist() == [12] * 9
    assert grid_labels((5, 7), 1, 1).unique().tolist() == [0]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="needs images with a true segmentation"):
        discover({"true": TrueMasks()}, [Batch(torch.zeros(1, 3, 8, 8))])
    oracle = OracleObjects(num_objects=1, quantities={"position": 2}, categories={})
    batch = quadrants(1)
    batch.objects = {"visible": torch.ones(1, 1, dtype=torch.bool), "position": torch.zeros(1, 1, 2)}
    with pytest.raises(ValueError, match="oracle gives no masks"):
        discover({"oracle": oracle}, [batch])
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        discover({}, iter(()), seed=-1)

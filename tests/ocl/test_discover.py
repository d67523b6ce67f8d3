"""The discovery table against closed forms: true masks score one, a grid and a whole mask what counting says."""

from __future__ import annotations

import pytest
import torch

from ocl.discover import discover, grid_labels
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

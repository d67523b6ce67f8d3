"""Distance of matched points: closed forms and what chance gives."""

from __future__ import annotations

import itertools

import pytest
import torch

from ocl.metrics.points import point_error


def test_equals_the_best_of_all_assignments() -> None:
    points, places = torch.rand(50, 5, 2), torch.rand(50, 4, 2)
    visible, valid = torch.rand(50, 4) < 0.7, torch.rand(50, 5) < 0.8
    error = point_error(points, places, visible, valid)
    for i in range(50):
        rows, columns = valid[i].nonzero()[:, 0].tolist(), visible[i].nonzero()[:, 0].tolist()
        pairs = min(len(rows), len(columns))
        assert bool(error.counted[i]) == (pairs > 0)
        if not pairs:
            assert error.values[i] == 0
            continue
        distance = torch.cdist(points[i].double(), places[i].double())
        if len(rows) < len(columns):
            distance, rows, columns = distance.T, columns, rows
        best = min(
            sum(float(distance[r, c]) for r, c in zip(pick, columns, strict=True))
            for pick in itertools.permutations(rows, pairs)
        )
        assert abs(error.values[i] - best / pairs) < 1e-6


def test_chance_and_perfection() -> None:
    """Seven points for four objects, all uniform: 0.24 of the image's width. (0.22 where objects avoid the border.)"""
    points, places, visible = torch.rand(2000, 7, 2), torch.rand(2000, 4, 2), torch.ones(2000, 4, dtype=torch.bool)
    assert abs(point_error(points, places, visible).values.mean() - 0.24) < 0.01
    exact = torch.cat([torch.rand(2000, 3, 2), places[:, torch.randperm(4)]], dim=1)
    assert point_error(exact, places, visible).values.max() == 0
    with pytest.raises(ValueError, match="must be"):
        point_error(points, places * 2, visible)

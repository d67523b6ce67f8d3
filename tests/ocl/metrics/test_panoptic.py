"""Panoptic quality against counting by hand."""

from __future__ import annotations

import pytest
import torch

from ocl.metrics.labels import contingency
from ocl.metrics.panoptic import panoptic_quality


def quality(prediction: list[int], segmentation: list[int], background: bool = True) -> tuple[float, bool]:
    table = contingency(torch.tensor(prediction).view(1, 1, -1), torch.tensor(segmentation).view(1, 1, -1))
    values, counted = panoptic_quality(table, background)
    return float(values), bool(counted)


def test_closed_forms() -> None:
    truth = [0] * 4 + [1] * 4 + [2] * 4
    assert quality(truth, truth) == (1, True)
    assert quality([5] * 4 + [3] * 4 + [9] * 4, truth) == (1, True)  # names of segments mean nothing
    # object 2 is cut into 3 + 1: matched at 3/4, one predicted segment too many
    assert quality([0] * 4 + [1] * 4 + [2] * 3 + [3], truth)[0] == pytest.approx((1 + 1 + 0.75) / ((3 + 4) / 2))
    # cut into halves: an IoU of exactly 0.5 is no match
    assert quality([0] * 4 + [1] * 4 + [2, 2, 3, 3], truth)[0] == pytest.approx(2 / ((3 + 4) / 2))
    # one mask for everything matches nothing
    assert quality([0] * 12, truth) == (0, True)


def test_background_ignored_pixels_and_nothing_to_find() -> None:
    truth = [0] * 4 + [1] * 4
    assert quality(truth, truth, background=False)[0] == pytest.approx(1 / ((1 + 2) / 2))
    assert quality([0] * 4 + [1] * 4, [0] * 4 + [1] * 2 + [-1] * 2) == (1, True)
    assert quality([0] * 8, [0] * 8, background=False) == (0, False)
    assert quality([0] * 8, [-1] * 8) == (0, False)

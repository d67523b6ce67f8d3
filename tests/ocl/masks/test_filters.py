"""The published filters on hand cases: thresholds are met exactly, borders and single pixels counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ocl.masks.base import Masks
from ocl.masks.filters import (
    BorderTouch,
    BorderVersusArea,
    Filter,
    Filters,
    LargestArea,
    MaximumAspectRatio,
    MaximumComponents,
    MinimumArea,
    NotBackground,
    published,
)


def box(size: tuple[int, int], top: int, left: int, bottom: int, right: int) -> Tensor:
    """(H W) with ones in rows top..bottom - 1 and columns left..right - 1."""
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def stack(*masks: Tensor) -> Masks:
    return Masks.of(torch.stack(masks)[None])


def kept(rule: Filter, *masks: Tensor) -> list[bool]:
    found = rule(stack(*masks))
    emptied = ~found.masks.flatten(2).any(2)
    assert torch.equal(found.valid, ~emptied)
    assert torch.equal(found.scores, found.valid.float())
    kept: list[bool] = found.valid[0].tolist()
    return kept


def test_area() -> None:
    size = (50, 40)  # 2000 pixels, of which 0.1 % are 2
    assert kept(MinimumArea(), box(size, 0, 0, 1, 1), box(size, 0, 0, 1, 2), box(size, 0, 0, 50, 40)) == [
        False,
        True,
        True,
    ]
    assert kept(MinimumArea(0), box(size, 49, 39, 50, 40)) == [True]


def test_background_is_what_holds_six_of_eight_probes() -> None:
    size = (9, 11)
    top = box(size, 0, 0, 1, 11)  # three corners and middles
    without_corners = torch.ones(size, dtype=torch.bool)
    without_corners[0, 0] = without_corners[0, -1] = False
    five = without_corners.clone()
    five[-1, -1] = False
    ring = torch.ones(size, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    assert kept(NotBackground(), top, without_corners, five, ring) == [True, False, True, False]
    probes = torch.zeros(size, dtype=torch.bool)
    for y, x in ((0, 0), (0, 5), (0, 10), (4, 0), (4, 10), (8, 0), (8, 5), (8, 10)):
        probes[y, x] = True
    assert kept(NotBackground(8), probes) == [False]


def test_components_share_edges() -> None:
    size = (12, 12)
    dots = torch.zeros(size, dtype=torch.bool)
    dots[::2, ::2] = True  # 36
    thirty = dots.clone()
    thirty[10] = False
    diagonal = torch.eye(12, dtype=torch.bool)  # corners do not connect: 12 regions
    assert kept(MaximumComponents(), dots, thirty, diagonal) == [False, True, True]
    assert kept(MaximumComponents(11), diagonal, ~diagonal) == [False, True]


def test_aspect_ratio_counts_pixels_of_the_box() -> None:
    size = (40, 40)
    corners = torch.zeros(size, dtype=torch.bool)
    corners[3, 5] = corners[15, 6] = True  # a box of 13 x 2
    masks = [box(size, 0, 0, 1, 6), box(size, 39, 0, 40, 7), box(size, 5, 5, 19, 7), corners, box(size, 7, 7, 8, 8)]
    assert kept(MaximumAspectRatio(), *masks) == [True, False, False, False, True]


def test_borders_count_corners_once() -> None:
    size = (60, 50)  # a ring of 216
    whole = torch.ones(size, dtype=torch.bool)
    three_sides = box(size, 0, 0, 60, 1) | box(size, 0, 0, 1, 50) | box(size, 59, 0, 60, 50)  # 158
    fewer = whole.clone()
    fewer[0, :16] = False
    one_more = whole.clone()
    one_more[0, :15] = False
    assert kept(BorderTouch(), whole, three_sides, fewer, one_more) == [False, True, True, False]
    inside, corner = box(size, 1, 1, 59, 49), box(size, 0, 0, 1, 1)
    assert kept(BorderVersusArea(), inside, corner, whole) == [True, False, False]
    assert kept(BorderVersusArea(216), whole) == [True]  # 216 pixels to a share of one
    assert kept(BorderTouch(1), torch.ones(1, 1, dtype=torch.bool)) == [True]


def test_the_largest_of_an_image() -> None:
    size = (10, 10)
    masks = [box(size, 0, 0, 1, 4), box(size, 5, 0, 6, 4), box(size, 2, 2, 4, 8), box(size, 9, 9, 10, 10)]
    assert kept(LargestArea(2), *masks) == [True, False, True, False]
    assert kept(LargestArea(9), *masks) == [True] * 4
    assert kept(LargestArea(1), torch.zeros(size, dtype=torch.bool)) == [False]


def test_filters_see_what_those_before_left() -> None:
    size = (100, 100)
    whole, large, small = torch.ones(size, dtype=torch.bool), box(size, 1, 1, 50, 50), box(size, 60, 60, 70, 70)
    assert Filters([NotBackground(), LargestArea(1)])(stack(whole, large, small)).valid.tolist() == [
        [False, True, False]
    ]
    assert Filters([LargestArea(1), NotBackground()])(stack(small, large)).valid.tolist() == [[False, True]]


def test_where_nothing_is_left_the_image_is_the_mask() -> None:
    size = (100, 100)
    speck, square, nothing = box(size, 0, 0, 1, 1), box(size, 30, 30, 60, 60), torch.zeros(size, dtype=torch.bool)
    masks = Masks.of(torch.stack([torch.stack([square, speck]), torch.stack([speck, speck])]), torch.full((2, 2), 0.4))
    before = masks.masks.clone()
    found = published()(masks)
    assert found.valid.tolist() == [[True, False], [True, False]]
    assert found.scores.tolist() == [[pytest.approx(0.4), 0], [1, 0]]
    assert torch.equal(found.masks[0, 0], square)
    assert found.masks[1, 0].all()
    assert not found.masks[:, 1].any()
    assert torch.equal(masks.masks, before), "the masks given were changed"
    assert masks.valid.all()
    assert published()(stack(nothing)).masks.all()
    none = Masks.of(torch.zeros(3, 0, 8, 9, dtype=torch.bool))
    assert published()(none).masks.shape == (3, 1, 8, 9)
    assert published()(none).masks.all()
    assert published()(Masks.of(torch.zeros(0, 2, 8, 9, dtype=torch.bool))).masks.shape == (0, 2, 8, 9)
    empty = stack(nothing)
    Filters([])(empty)
    assert not empty.valid.any()


def test_soft_masks_are_judged_at_one_half() -> None:
    soft = torch.stack([torch.full((20, 20), 0.49), torch.full((20, 20), 0.5)])[None]
    soft[:, :, 0] = 0
    found = MinimumArea()(Masks.of(soft))
    assert found.valid.tolist() == [[False, True]]
    assert torch.equal(found.masks[:, 1], soft[:, 1])
    assert Filters([LargestArea(1), MinimumArea()])(Masks.of(soft * 0.1)).masks[0, 0].eq(1).all()


@pytest.mark.parametrize("rule", [LargestArea(3), *published().filters, MaximumAspectRatio(), BorderTouch()])
def test_no_masks_at_all(rule: Filter) -> None:
    assert rule(Masks.of(torch.zeros(2, 0, 5, 5, dtype=torch.bool))).masks.shape == (2, 0, 5, 5)
    assert not rule(stack(torch.zeros(5, 5, dtype=torch.bool))).valid.any()


def test_senseless_thresholds_are_refused() -> None:
    for build in (
        lambda: MinimumArea(1.5),
        lambda: NotBackground(9),
        lambda: MaximumComponents(0),
        lambda: MaximumAspectRatio(0.5),
        lambda: BorderTouch(-1),
        lambda: BorderVersusArea(-1),
        lambda: LargestArea(0),
    ):
        with pytest.raises(ValueError, match="must be"):
            build()


@pytest.mark.parametrize("height", [3, 7, 30, 48])
def test_a_mask_of_exactly_the_least_share_stays(height: int) -> None:
    for share in (0.1, 0.2, 0.3, 0.6, 0.7):
        masks = torch.zeros(1, 1, height, 10, dtype=torch.bool)
        masks.view(-1)[: round(share * height * 10)] = True
        assert MinimumArea(share)(Masks.of(masks)).valid.all()

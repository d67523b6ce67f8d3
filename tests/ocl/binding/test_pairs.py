"""Which pairs count: sets counted by hand, by loops and by closed forms."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch

from ocl.binding.pairs import (
    distance_bands,
    distances,
    hard_pairs,
    pairs_between,
    places_of,
    same_class_pairs,
    sample_patches,
)
from ocl.binding.patches import Patches, distinct_pairs
from ocl.shapes import IGNORE


def patches(batch: int = 3, count: int = 24, grid: tuple[int, int] = (5, 9)) -> Patches:
    generator = torch.Generator().manual_seed(0)
    objects = torch.randint(-1, 5, (batch, count), generator=generator)
    classes = torch.where(objects == IGNORE, IGNORE, objects // 2)  # objects 0 and 1 share class 0, 2 and 3 class 1
    drawn = sample_patches(torch.zeros(batch, grid[0] * grid[1], dtype=torch.long), count, range(batch))
    return Patches(torch.zeros(1, batch, count, 2), objects, classes, places_of(drawn, grid))


def test_every_rule_agrees_with_a_loop_over_pairs() -> None:
    found = patches()
    near = pairs_between(1.0, 3.0)(found)
    same_class, hard, distinct = same_class_pairs(found), hard_pairs(found), distinct_pairs(found)
    assert found.places is not None
    assert found.classes is not None
    for b, i, j in product(range(3), range(24), range(24)):
        objects, classes = found.objects[b].tolist(), found.classes[b].tolist()
        known = i != j and objects[i] >= 0 and objects[j] >= 0
        assert distinct[b, i, j] == known
        assert same_class[b, i, j] == (known and classes[i] == classes[j])
        assert hard[b, i, j] == (known and classes[i] == classes[j] and objects[i] != objects[j])
        apart = math.dist(found.places[b, i].tolist(), found.places[b, j].tolist())
        assert near[b, i, j] == (known and 1.0 <= apart < 3.0)


def test_the_diagonal_gives_free_hits() -> None:
    """Of the n (n + 1) / 2 pairs on and above the diagonal, n are a patch with itself: a share of 2 / (n + 1)."""
    for count in (1, 7, 64):
        objects = torch.arange(count)[None]  # all different: only the diagonal is "same"
        same = Patches(torch.zeros(1, 1, count, 2), objects).same[0]
        upper = torch.ones(count, count, dtype=torch.bool).triu()
        assert same[upper].double().mean() == pytest.approx(2 / (count + 1))
        assert not (same & distinct_pairs(Patches(torch.zeros(1, 1, count, 2), objects))[0]).any()


def test_bands_part_the_pairs() -> None:
    found = patches()
    edges = [0.0, 1.0, 2.5, 4.0, 100.0]
    band, distance = distance_bands(found, edges), distances(found)
    for number, (low, high) in enumerate(pairwise(edges)):
        assert torch.equal(band == number, (distance >= low) & (distance < high))
        assert torch.equal(distinct_pairs(found) & (band == number), pairs_between(low, high)(found))
    assert torch.equal(distance_bands(found, [1.0, 2.5]) == -1, (distance < 1) | (distance >= 2.5))


def test_places_are_centres_in_raster_order() -> None:
    assert places_of(torch.tensor([0, 8, 9, 44]), (5, 9)).tolist() == [[0.5, 0.5], [8.5, 0.5], [0.5, 1.5], [8.5, 4.5]]


def test_the_draw_belongs_to_the_image() -> None:
    labels = torch.zeros(6, 196, dtype=torch.long)
    drawn = sample_patches(labels, 64, range(6))
    assert drawn.shape == (6, 64)
    assert (drawn.diff(dim=1) > 0).all()  # different, in raster order
    assert torch.equal(sample_patches(labels[:2], 64, [4, 1]), drawn[[4, 1]])  # whatever the batch
    assert not torch.equal(sample_patches(labels, 64, range(6), seed=1), drawn)
    assert len({tuple(row.tolist()) for row in drawn}) == 6
    # Uniform: over 3,000 images every one of 10 patches is drawn in 30 % of them (deviation 0.8 %).
    often = sample_patches(torch.zeros(3000, 10, dtype=torch.long), 3, range(3000)).flatten().bincount() / 3000
    assert (often - 0.3).abs().max() < 0.04


def test_patches_with_labels_come_first() -> None:
    labels = torch.full((2, 50), IGNORE)
    labels[0, 10:30] = 1
    labels[1, :5] = 2
    drawn = sample_patches(labels, 12, range(2))
    assert (labels[0, drawn[0]] == 1).all()
    assert set(range(5)) <= set(drawn[1].tolist())
    assert len(set(drawn[1].tolist())) == 12


def test_one_object_has_no_hard_pairs() -> None:
    one = Patches(torch.zeros(1, 1, 4, 2), torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))
    assert not hard_pairs(one).any()
    assert same_class_pairs(one).sum() == 12


def test_what_is_missing_is_named() -> None:
    bare = Patches(torch.zeros(1, 1, 4, 2), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="no classes"):
        hard_pairs(bare)
    with pytest.raises(ValueError, match="no places"):
        distances(bare)
    with pytest.raises(ValueError, match="can draw 1 to 9 patches of an image, got 10"):
        sample_patches(torch.zeros(1, 9, dtype=torch.long), 10, [0])
    with pytest.raises(ValueError, match="numbers of 2 images, got 1"):
        sample_patches(torch.zeros(2, 9, dtype=torch.long), 3, [0])
    with pytest.raises(ValueError, match="two rising distances"):
        distance_bands(patches(), [2, 2])
    with pytest.raises(ValueError, match="least < below"):
        pairs_between(3, 3)

"""Chance levels of selection among segments."""

import pytest
import torch

from ocl.masks.base import Masks
from ocl.masks.chance import any_correct_chance, class_aided_chance
from ocl.masks.foreground import Candidates, ClassAided, any_mask_correct
from ocl.masks.selection import Best


@pytest.mark.parametrize(
    ("classes", "segments", "expected", "tolerance"),
    [
        (2, 5, 0.969, 0.01),
        (2, 10, 0.999, 0.003),
        (9, 5, 0.44, 0.01),
        (9, 10, 0.69, 0.01),
        (9, 20, 0.90, 0.01),
        (45, 10, 0.20, 0.01),
        (200, 10, 0.047, 0.005),
        (1000, 10, 0.009, 0.003),
    ],
)
def test_class_aided_selection_scores_high_on_random_logits(classes, segments, expected, tolerance):
    found = class_aided_chance(torch.tensor([segments]), classes)
    assert found == pytest.approx(expected, abs=tolerance)


def test_two_classes_have_a_closed_form_at_any_scale():
    counts = torch.tensor([1, 2, 2, 5])
    expected = (0.5 + 0.75 + 0.75 + 1 - 2**-5) / 4
    assert any_correct_chance(counts, 2) == pytest.approx(expected)
    for scale in (0.1, 10.0):
        assert class_aided_chance(counts, 2, logit_scale=scale) == pytest.approx(expected, abs=0.01)


def test_the_chances_are_those_of_the_scores_themselves():
    generator = torch.Generator().manual_seed(3)
    p = torch.randn(1, 20_000, 6, 9, generator=generator).softmax(-1)
    labels = torch.randint(0, 9, (20_000,), generator=generator)
    valid = torch.arange(6) < torch.randint(1, 7, (20_000, 1), generator=generator)
    found = Candidates(p, Masks(valid[..., None, None].expand(-1, -1, 1, 1), valid.float(), valid), labels)
    counts = valid.sum(1)
    some = any_mask_correct(found).double().mean()
    assert float(some) == pytest.approx(any_correct_chance(counts, 9), abs=0.01)
    aided = (Best()(found, ClassAided()(found)).probabilities.argmax(-1) == labels).double().mean()
    assert float(aided) == pytest.approx(class_aided_chance(counts, 9), abs=0.01)
    assert aided < some - 0.005


def test_one_segment_is_a_guess():
    assert any_correct_chance(torch.ones(5, dtype=torch.long), 10) == pytest.approx(0.1)
    assert class_aided_chance(torch.ones(5, dtype=torch.long), 10) == pytest.approx(0.1, abs=0.01)


def test_one_pool_of_segments_gives_the_chance_of_images_drawn_one_by_one():
    generator = torch.Generator().manual_seed(0)
    for classes, segments in ((3, 4), (9, 12)):
        logits = 3 * torch.randn(40_000, segments, classes, generator=generator)
        chosen = logits.softmax(-1)[..., 0].argmax(-1)
        plain = (logits[torch.arange(40_000), chosen].argmax(-1) == 0).double().mean()
        assert class_aided_chance(torch.tensor([segments]), classes) == pytest.approx(float(plain), abs=0.01)


def test_the_same_seed_gives_the_same_chance_and_images_are_averaged():
    alone = [class_aided_chance(torch.tensor([k]), 5, draws=3000, seed=7) for k in (3, 4)]
    counts = torch.tensor([3, 4, 4])
    assert class_aided_chance(counts, 5, draws=3000, seed=7) == pytest.approx((alone[0] + 2 * alone[1]) / 3)
    assert class_aided_chance(counts, 5, draws=3000, seed=8) != class_aided_chance(counts, 5, draws=3000, seed=7)


def test_bad_counts_are_refused():
    for counts in (torch.tensor([0, 2]), torch.tensor([1.0]), torch.zeros(0, dtype=torch.long), torch.tensor([[2]])):
        with pytest.raises(ValueError, match="counts must be"):
            class_aided_chance(counts, 3)
    with pytest.raises(ValueError, match="two classes"):
        any_correct_chance(torch.tensor([2]), 1)

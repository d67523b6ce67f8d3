"""One prediction per image, whatever the order of the segments and whatever is tied."""

import pytest
import torch

from ocl.masks.base import Masks
from ocl.masks.foreground import Candidates, MaximumProbability
from ocl.masks.selection import Best, TopKVote, WeightedMean, WholeImageToo
from ocl.shapes import Batch

SELECTIONS = [Best(), WeightedMean(), WeightedMean(0.01), TopKVote(1), TopKVote(3), TopKVote(100)]


def candidates(probabilities, valid=None):
    valid = torch.ones(probabilities.shape[:2], dtype=torch.bool) if valid is None else valid
    return Candidates(
        probabilities[None], Masks(torch.ones(*valid.shape, 2, 2, dtype=torch.bool), valid.float(), valid)
    )


def random(images=200, count=7, classes=5):
    valid = torch.rand(images, count) < 0.6
    valid[torch.arange(images), torch.randint(0, count, (images,))] = True
    return candidates(torch.randn(images, count, classes).softmax(-1), valid)


@pytest.mark.parametrize("select", SELECTIONS)
def test_one_distribution_per_image_also_where_all_segments_are_tied(select):
    found = random()
    scores = torch.zeros(200, 7).masked_fill(~found.masks.valid, -torch.inf)
    chosen = select(found, scores)
    assert chosen.probabilities.shape == (200, 5)
    torch.testing.assert_close(chosen.probabilities.sum(-1), torch.ones(200))
    if chosen.index is not None:
        assert torch.equal(chosen.index, found.masks.valid.byte().argmax(-1))  # the first valid one


@pytest.mark.parametrize("select", SELECTIONS)
def test_the_order_of_segments_does_not_matter(select):
    found = random()
    scores = MaximumProbability()(found)
    order = torch.rand(200, 7).argsort(-1)
    rows = torch.arange(200)[:, None]
    shuffled = candidates(found.probabilities[0][rows, order], found.masks.valid[rows, order])
    first, second = select(found, scores), select(shuffled, scores[rows, order])
    torch.testing.assert_close(first.probabilities, second.probabilities)
    if first.index is not None:
        assert torch.equal(first.index, order[torch.arange(200), second.index])


@pytest.mark.parametrize("select", SELECTIONS)
def test_one_segment_is_taken_as_it_is(select):
    p = torch.randn(20, 1, 4).softmax(-1)
    chosen = select(candidates(p), torch.randn(20, 1)).probabilities
    assert torch.equal(chosen.argmax(-1), p[:, 0].argmax(-1))
    if not isinstance(select, TopKVote):
        torch.testing.assert_close(chosen, p[:, 0])


def test_a_mean_lies_between_the_best_and_the_plain_mean():
    found = candidates(torch.randn(50, 6, 4).softmax(-1))
    scores = torch.stack([torch.randperm(6) for _ in range(50)]).float()
    torch.testing.assert_close(WeightedMean(0.01)(found, scores).probabilities, Best()(found, scores).probabilities)
    plain = found.probabilities[0].mean(1)
    torch.testing.assert_close(WeightedMean(1e6)(found, scores).probabilities, plain, atol=1e-5, rtol=0)


def test_votes_by_hand():
    p = torch.tensor([[0.5, 0.4, 0.1], [0.4, 0.6, 0.0], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])[None]
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    assert TopKVote(1)(candidates(p), scores).probabilities.argmax() == 0
    chosen = TopKVote(3)(candidates(p), scores).probabilities
    torch.testing.assert_close(chosen, (torch.tensor([[1.0, 2.0, 0.0]]) + p[:, :3].mean(1)) / 4)
    # One vote each: the mean, 0.45 against 0.5, decides.
    assert TopKVote(2)(candidates(p), scores).probabilities.argmax() == 1
    assert TopKVote(4)(candidates(p), scores).probabilities.argmax() == 0  # two each, 0.5 against 0.45


def test_a_sure_minority_overturns_no_majority():
    p = torch.tensor([[0.0, 1.0], [0.501, 0.499], [0.501, 0.499]])[None]
    assert TopKVote(3)(candidates(p), torch.zeros(1, 3)).probabilities.argmax() == 0


def test_the_whole_image_is_the_last_candidate():
    images = torch.rand(2, 3, 5, 6)
    for dtype in (torch.bool, torch.float32):
        for count in (0, 3):
            masks = torch.zeros(2, count, 5, 6, dtype=dtype)
            masks[:, :2, 1, 1] = 1
            found = WholeImageToo(lambda batch, m=masks: Masks.of(m))(Batch(images))
            assert found.masks.dtype == dtype
            assert found.masks.shape == (2, count + 1, 5, 6)
            assert found.masks[:, -1].all()
            assert found.valid.tolist() == [[True, True, False][:count] + [True]] * 2
            assert torch.equal(found.scores, found.valid.float())


def test_bad_scores_are_refused():
    found = candidates(torch.rand(3, 2, 4), torch.tensor([[True, True], [False, False], [True, False]]))
    for select in SELECTIONS:
        with pytest.raises(ValueError, match=r"image 1 .* no valid segment"):
            select(found, torch.zeros(3, 2))
        with pytest.raises(ValueError, match="scores must be"):
            select(found, torch.zeros(3, 3))
        with pytest.raises(ValueError, match="NaN"):
            select(candidates(torch.rand(3, 2, 4)), torch.full((3, 2), torch.nan))
        with pytest.raises(ValueError, match="no valid segment"):
            select(candidates(torch.rand(3, 0, 4)), torch.zeros(3, 0))
    with pytest.raises(ValueError, match="positive"):
        WeightedMean(0)
    with pytest.raises(ValueError, match="at least 1"):
        TopKVote(0)


@pytest.mark.parametrize("select", [Best(), WeightedMean(), TopKVote(3)])
def test_what_padding_holds_does_not_matter(select):
    valid = torch.tensor([[True, False, True, False]])
    masks = Masks(torch.ones(1, 4, 5, 5, dtype=torch.bool) & valid[..., None, None], valid.float(), valid)
    probabilities = torch.rand(1, 1, 4, 3).softmax(-1)
    damaged = probabilities.masked_fill(~valid[..., None], torch.nan)
    results = []
    for given in (probabilities, damaged):
        candidates = Candidates(given, masks)
        results.append(select(candidates, MaximumProbability()(candidates)).probabilities)
    assert torch.equal(*results)

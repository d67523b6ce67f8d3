"""Stage labels, the head that learns them, and the weights for cloning."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from rl_probes.distances import pearson_distance
from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.stage_progress import StageProgress
from rl_probes.rewards.stages import (
    cloning_weights,
    labels_of_progress,
    mean_shares,
    progress_of_labels,
    stage_labels,
)
from rl_probes.rewards.transition import SlotTransition


def test_equal_progress_at_equal_stage_boundaries():
    short, long = [2, 10], [30, 40]
    shares = mean_shares([short, long])
    np.testing.assert_allclose(shares, [(0.2 + 0.75) / 2, (0.8 + 0.25) / 2])
    assert shares.sum() == pytest.approx(1.0, abs=1e-12)
    for ends in (short, long):
        progress = progress_of_labels(stage_labels(ends, ends[-1] + 1), shares)
        np.testing.assert_allclose(progress[[0, *ends]], [0.0, shares[0], 1.0])
        assert (np.diff(progress) > 0).all()


def test_labels_by_hand():
    np.testing.assert_allclose(stage_labels([2, 6], 9), [0, 0.5, 1, 1.25, 1.5, 1.75, 2, 2, 2])
    np.testing.assert_allclose(stage_labels([4], 5), [0, 0.25, 0.5, 0.75, 1])  # one stage: linear in time


def test_labels_and_progress_invert_each_other():
    shares = [0.1, 0.25, 0.05, 0.6]
    labels = np.random.default_rng(0).uniform(0, 4, 1000)
    np.testing.assert_allclose(labels_of_progress(progress_of_labels(labels, shares), shares), labels, atol=1e-12)
    assert progress_of_labels(2.5, shares) == pytest.approx(0.1 + 0.25 + 0.025)


def test_cloning_weights_by_hand():
    weights = cloning_weights([-0.02, 0, 0.005, 0.01, 0.02, 0.05], 0.01)
    np.testing.assert_allclose(weights, [0, 0.373, 0.432, 0.490, 1, 1], atol=5e-4)
    np.testing.assert_array_equal(cloning_weights([0.0, 0.0]), [0.0, 0.0])  # nobody gained anything


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: stage_labels([3, 3], 5), "must increase"),
        (lambda: stage_labels([0, 3], 5), "must increase"),
        (lambda: stage_labels([3, 6], 5), "has 5 frames"),
        (lambda: mean_shares([[1, 2], [3]]), "the same stages"),
        (lambda: mean_shares([]), "the same stages"),
        (lambda: progress_of_labels([0.5], [0.5, 0.6]), "sum one"),
        (lambda: cloning_weights([0.1, np.nan]), "finite gains"),
        (lambda: StageProgress(4, 0), "at least one stage"),
        (
            lambda: StageProgress(4, 2).loss(SlotTransition(torch.zeros(1, 2, 4)), torch.tensor([2.1])),
            r"must lie in \[0, 2\]",
        ),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def demonstration(rng, ends):
    """Object 0 moves to x = 1 in stage 0, then object 1 does; the order of the slots is random in every frame."""
    labels = stage_labels(ends, ends[-1] + 1)
    slots = np.zeros((len(labels), 3, 4), np.float32)
    slots[:, [0, 1, 2], [0, 1, 2]] = 1.0
    slots[:, 0, 3], slots[:, 1, 3] = labels.clip(0, 1), labels.clip(1, 2) - 1
    slots += rng.normal(0, 0.02, slots.shape)
    order = rng.random(slots.shape[:2]).argsort(1)
    return np.take_along_axis(slots, order[..., None], 1), labels


def test_a_head_tells_stages_where_a_clock_cannot(tmp_path):
    rng = np.random.default_rng(0)
    marks = [np.cumsum(rng.integers(3, 40, 2)).tolist() for _ in range(60)]
    demos = [demonstration(rng, ends) for ends in marks]
    slots, labels = (np.concatenate([demo[i] for demo in demos[:45]]) for i in (0, 1))
    slots, labels = torch.from_numpy(slots), torch.from_numpy(labels).float()
    head = StageProgress(4, 2, width=32)
    shares = mean_shares(marks[:45])
    head.shares.copy_(torch.from_numpy(shares))
    optimizer = torch.optim.Adam(head.parameters(), 5e-3)
    for _ in range(300):
        rows = torch.randint(len(labels), (128,))
        optimizer.zero_grad()
        head.loss(SlotTransition(slots[rows]), labels[rows]).backward()
        optimizer.step()
    truth, found, clock, forwards, backwards = [], [], [], [], []
    with torch.no_grad():
        for states, y in demos[45:]:
            output = head(SlotTransition(torch.from_numpy(states)))
            truth.append(progress_of_labels(y, shares))
            found.append(output.reward.numpy())
            clock.append(np.arange(len(y)))
            forwards.append(spearmanr(np.arange(len(y)), found[-1])[0])
            backwards.append(spearmanr(np.arange(len(y)), found[-1][::-1])[0])
            assert (output.extras["stage"].numpy() == np.minimum(y.astype(int), 1)).mean() > 0.8
    truth, found, clock = map(np.concatenate, (truth, found, clock))
    assert pearson_distance(found, truth) < 0.15 < pearson_distance(clock, truth)
    assert np.mean(forwards) > 0.9
    assert np.mean(backwards) < -0.5
    save_head(head.eval(), tmp_path)
    again = load_head(StageProgress, tmp_path)
    given = SlotTransition(torch.from_numpy(demos[0][0]))
    assert torch.equal(head(given).reward, again(given).reward)

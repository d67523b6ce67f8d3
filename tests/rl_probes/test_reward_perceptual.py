"""Steps found in demonstrations, the features that tell them apart, and the potential made of both."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.perceptual_reward import PerceptualSteps, prototype_statistics
from rl_probes.rewards.perceptual_steps import feature_scores, find_steps
from rl_probes.rewards.transition import SlotTransition


def planted(rng, ends, informative=6, noisy=20):
    """Features (T F): the first ones take another value in every step, the others are noise."""
    labels = np.repeat(np.arange(len(ends)), np.diff([0, *ends]))
    values = np.array([[2.0, -1.0, -1.0], [-1.0, 2.0, -1.0], [-1.0, -1.0, 2.0]])[:, np.arange(informative) % 3]
    features = np.concatenate([values[labels], np.zeros((len(labels), noisy))], 1)
    return features + 0.3 * rng.normal(size=features.shape), labels


@pytest.mark.parametrize("seed", range(10))
def test_planted_boundaries_are_found_exactly(seed):
    rng = np.random.default_rng(seed)
    ends = np.cumsum(rng.integers(5, 40, 3)).tolist()
    assert find_steps(planted(rng, ends)[0], 3) == ends


def test_no_other_split_is_better():
    """Against all splits of short random sequences, most of which have no clear steps."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        features = rng.normal(size=(14, 4)).cumsum(0)

        def spread(marks, features=features):
            parts = np.split(features, marks)
            return sum(len(part) * part.std(0).mean() for part in parts)

        allowed = [m for m in combinations(range(1, 14), 2) if np.diff([0, *m, 14]).min() >= 3]
        best = min(allowed, key=spread)
        assert find_steps(features, 3, min_frames=3) == [*best, 14]


def test_ends_by_hand():
    features = np.array([0.0, 0, 0, 5, 5, 5, 5, 9, 9, 9])[:, None]
    assert find_steps(features, 3) == [3, 7, 10]
    assert find_steps(features, 1) == [10]
    assert find_steps(features, 3, min_frames=1) == [3, 7, 10]
    assert find_steps(features + 1e6, 3) == [3, 7, 10]


def test_planted_features_rank_first():
    rng = np.random.default_rng(0)
    features, labels = planted(rng, [30, 70, 90])
    features = (features - features.mean(0)) / features.std(0)
    for step in range(3):
        order = np.argsort(-feature_scores(features, labels == step))
        own = [step, step + 3]  # what is high in this step alone
        assert set(order[:2]) == set(own)
        assert set(order[:6]) == set(range(6))
    inside = labels == 1
    expected = 5 * abs(features[inside].mean(0) - features[~inside].mean(0))
    expected -= features[inside].std(0) + features[~inside].std(0)
    np.testing.assert_allclose(feature_scores(features, inside), expected)


def test_prototype_statistics_by_hand():
    """Two far prototypes: shares are one or zero, so the features are counts and ways."""
    prototypes = torch.tensor([[0.0, 0.0], [100.0, 0.0]])
    slots = torch.tensor([[[1.0, 2.0], [0.0, -1.0], [100.0, 3.0], [7.0, 7.0]]])
    valid = torch.tensor([[True, True, True, False]])
    found = prototype_statistics(slots, valid, prototypes, torch.tensor(1.0))
    assert found.tolist() == [[1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 0.0, 3.0]]


def demonstration(rng, ends):
    """A box is moved to the right, then another is lifted: three objects in random order, resting in between."""
    labels = np.repeat(np.arange(3), np.diff([0, *ends]))
    slots = np.zeros((len(labels), 3, 5), np.float32)
    slots[:, [0, 1, 2], [0, 1, 2]] = 1.0
    slots[:, 0, 3] = np.array([0.0, 1.0, 1.0])[labels]
    slots[:, 1, 4] = np.array([0.0, 0.0, 1.0])[labels]
    slots[..., 3:] += rng.normal(0, 0.05, (len(labels), 3, 2))
    order = rng.random(slots.shape[:2]).argsort(1)
    slots = np.take_along_axis(slots, order[..., None], 1)
    return torch.from_numpy(slots), torch.ones(slots.shape[:2], dtype=torch.bool), labels


def fitted(seed=0):
    rng = np.random.default_rng(seed)
    ends = [np.cumsum(rng.integers(8, 30, 3)).tolist() for _ in range(6)]
    demos = [demonstration(rng, marks) for marks in ends]
    head = PerceptualSteps(5, 3)
    found = head.fit([demo[:2] for demo in demos[:5]])
    return head.eval(), found, ends, demos


def test_the_reward_of_a_step_peaks_inside_it(tmp_path):
    head, found, ends, demos = fitted()
    assert found == ends[:5]
    slots, valid, labels = demos[5]  # not among those it was fitted on
    output = head(SlotTransition(slots, valid))
    for step in range(3):
        of_step = output.extras["steps"][:, step].numpy()
        assert labels[of_step.argmax()] == step
        assert of_step[labels == step].min() > of_step[labels != step].max()
    # R_2 is weighed twice, R_3 four times.
    expected = (2 * output.extras["steps"][:, 1] + 4 * output.extras["steps"][:, 2]) / 6
    torch.testing.assert_close(output.reward, expected)
    assert spearmanr(output.reward.numpy(), labels)[0] > 0.8
    save_head(head, tmp_path)
    assert torch.equal(load_head(PerceptualSteps, tmp_path)(SlotTransition(slots, valid)).reward, output.reward)


def test_a_state_at_the_mean_of_its_step_scores_one():
    head = fitted()[0]
    features = head.centre[2].clone()
    head.features = lambda slots, valid: torch.zeros(1, 56).scatter(1, head.chosen[2][None], features[None])
    assert head(SlotTransition(torch.zeros(1, 3, 5))).extras["steps"][0, 2].item() == pytest.approx(1.0, abs=1e-6)
    one_off = head.centre[2] + head.deviation[2]
    head.features = lambda slots, valid: torch.zeros(1, 56).scatter(1, head.chosen[2][None], one_off[None])
    found = head(SlotTransition(torch.zeros(1, 3, 5))).extras["steps"][0, 2].item()
    assert found == pytest.approx(np.exp(-0.5), abs=1e-5)


def test_fitting_is_a_function_of_its_arguments_and_does_not_see_padding():
    head, _, _, demos = fitted()
    again = PerceptualSteps(5, 3)
    padded = []
    for slots, valid, _ in demos[:5]:
        garbage = torch.full((len(slots), 2, 5), torch.nan)
        mask = torch.zeros(len(slots), 2, dtype=torch.bool)
        padded.append((torch.cat([slots, garbage], 1), torch.cat([valid, mask], 1)))
    again.fit(padded)
    for (name, one), two in zip(head.state_dict().items(), again.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: find_steps(np.zeros((8, 2)), 3), "8 frames cannot be split into 3 steps"),
        (lambda: find_steps(np.zeros(8), 2), "must be finite"),
        (lambda: find_steps(np.full((8, 2), np.nan), 2), "must be finite"),
        (lambda: feature_scores(np.zeros((4, 2)), np.ones(4, bool)), "inside and outside"),
        (lambda: PerceptualSteps(4, 1), "need two steps"),
        (lambda: PerceptualSteps(4, 2, num_prototypes=1, num_features=7), "1 to 6 features"),
        (lambda: PerceptualSteps(4, 2).fit([]), "at least one demonstration"),
        (
            lambda: PerceptualSteps(4, 2).fit([(torch.zeros(9, 1, 5), torch.ones(9, 1, dtype=torch.bool))]),
            r"width 4, got widths \[5\]",
        ),
        (
            lambda: PerceptualSteps(4, 2).fit([(torch.zeros(7, 1, 4), torch.ones(7, 1, dtype=torch.bool))]),
            "8 prototypes need as many finite slots, got 7",
        ),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

"""Preferences: the model's symmetries, labels, questions, and a reward recovered from them."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from rl_probes.rewards.preference_reward import PreferenceReward
from rl_probes.rewards.preferences import (
    fragment_return,
    most_uncertain,
    preference_loss,
    preference_probability,
    synthetic_labels,
)
from rl_probes.rewards.transition import SlotTransition


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_swapping_the_pair_flips_the_probability(noise):
    difference = torch.linspace(-80, 80, 401, dtype=torch.float64)
    first, second = preference_probability(difference, noise), preference_probability(-difference, noise)
    torch.testing.assert_close(first + second, torch.ones_like(first))
    assert first.min() >= noise / 2
    assert first.max() <= 1 - noise / 2 + 1e-15  # the last digit of the sum
    assert preference_probability(torch.tensor(0.0), noise).item() == pytest.approx(0.5)


def test_a_constant_changes_nothing():
    rewards = torch.randn(2, 100, 12, dtype=torch.float64)
    for gamma in (1.0, 0.9):
        plain = [fragment_return(part, gamma) for part in rewards]
        moved = [fragment_return(part + 3.0, gamma) for part in rewards]
        torch.testing.assert_close(moved[0] - moved[1], plain[0] - plain[1])
    assert fragment_return(torch.tensor([1.0, 2.0, 4.0]), 0.5).item() == 3.0


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_loss_and_its_gradient_stay_finite(noise):
    difference = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0, 30.0], requires_grad=True)
    loss = preference_loss(difference, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5, 0.0]), noise)
    loss.backward()
    assert loss.isfinite()
    assert difference.grad.isfinite().all()
    if noise == 0:  # log sigmoid of -50 twice, of -30 once, and log 2
        assert loss.item() == pytest.approx((50 + 50 + 30 + np.log(2)) / 6, rel=1e-6)
        assert difference.grad[5].item() == pytest.approx(1 / 6, rel=1e-5)


def test_labels_of_a_judge():
    assert synthetic_labels(torch.tensor([2.0, -0.1, 0.0])).tolist() == [1.0, 0.0, 0.5]
    generator = torch.Generator().manual_seed(0)
    drawn = synthetic_labels(torch.full((20000,), 1.0), temperature=2.0, generator=generator)
    assert drawn.mean().item() == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.01)


def test_questions_go_where_members_disagree():
    differences = torch.tensor([[5.0, 9.0, 0.1, -3.0], [-5.0, 9.5, -0.1, 1.0], [5.0, 40.0, 0.0, -3.0]])
    assert most_uncertain(differences, 2).tolist() == [0, 3]  # members differ most about 1 in return, not in preference


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: preference_probability(torch.zeros(1), 1.5), "noise is a share"),
        (lambda: preference_loss(torch.zeros(2), torch.tensor([0.0, 2.0])), "label in"),
        (lambda: preference_loss(torch.zeros(2), torch.zeros(3)), "label in"),
        (lambda: synthetic_labels(torch.zeros(1), -1.0), "must not be negative"),
        (lambda: most_uncertain(torch.zeros(1, 5), 2), "asking about 2 pairs"),
        (lambda: PreferenceReward(4, members=0), "at least one member"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_a_reward_is_recovered_from_preferences():
    """The true reward of a state is the place of object 0 of three, in any order; labels come from fragments of 8."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.zeros(700, 8, 3, 4)
    slots[..., [0, 1, 2], [0, 1, 2]] = 1.0
    slots[..., 3] = torch.rand(700, 8, 3, generator=generator)
    truth = slots[:, :, 0, 3].clone()
    order = torch.rand(slots.shape[:3], generator=generator).argsort(2)
    slots = slots.gather(2, order[..., None].expand_as(slots))
    valid = torch.ones(slots.shape[:3], dtype=torch.bool)
    head = PreferenceReward(4, members=2, width=32)
    first, second = torch.randint(600, (2, 500), generator=generator)
    label = synthetic_labels(fragment_return(truth[first]) - fragment_return(truth[second]))
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(250):
        rows = torch.randint(500, (32,), generator=generator)
        one, two = first[rows], second[rows]
        optimizer.zero_grad()
        head.loss(head.differences(slots[one], valid[one], slots[two], valid[two]), label[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        output = head(SlotTransition(slots[600:].flatten(0, 1)))
    assert spearmanr(output.reward.numpy(), truth[600:].flatten().numpy())[0] > 0.9
    torch.testing.assert_close(output.extras["members"].mean(0), output.reward)
    asked = head.ask(slots[:50], valid[:50], slots[50:100], valid[50:100], 10)
    assert len(asked.unique()) == 10
    with torch.no_grad():
        differences = head.differences(slots[:50], valid[:50], slots[50:100], valid[50:100])
    disagreement = (differences[0].sigmoid() - differences[1].sigmoid()).abs()  # of two members
    assert set(asked.tolist()) == set(disagreement.argsort(descending=True)[:10].tolist())
    with pytest.raises(ValueError, match="must be alike"):
        head.differences(slots[:2], valid[:2], slots[:2, :4], valid[:2, :4])

"""Random distillation counts visits, and without noise it is random network distillation."""

from functools import partial

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.transition import SlotTransition

STATES, OUTPUTS = 2000, 8


class Table(nn.Module):
    """One row for every state of the batch."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(STATES, OUTPUTS))

    def forward(self, slots, valid):
        return self.rows


def networks(dim=4, seed=0):
    torch.manual_seed(seed)
    return SetNetwork(dim, 16, OUTPUTS), SetNetwork(dim, 16, OUTPUTS)


def test_the_bonus_of_a_running_mean_is_one_over_the_number_of_visits():
    predictor = RandomDistillation(1, Table(), Table(), 1.0, partial(torch.optim.SGD, lr=1.0))
    states = SlotTransition(torch.ones(STATES, 1, 1))
    bonus = []
    for visit in range(1, 65):
        predictor.optimizer.param_groups[0]["lr"] = STATES / visit  # makes each row the mean of its samples
        predictor.observe(states)
        bonus.append(predictor(states).reward.mean().item())
    for visits in (4, 16, 64):
        assert bonus[visits - 1] == pytest.approx(1 / visits, rel=0.1)
    assert all(later < earlier for earlier, later in zip(bonus[::2], bonus[2::2], strict=False))


def test_without_noise_it_is_random_network_distillation():
    given = random_transitions(4)
    target, learner = networks()
    predictor = RandomDistillation(4, target, learner, 0.0)
    fixed, student = networks()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    present = given.slots[given.valid]
    for _ in range(20):
        predictor.observe(given)
        whitened = (given.slots - present.mean(0)) / present.std(0, correction=0)
        slots = torch.where(given.valid[..., None], whitened, 0.0)
        loss = (student(slots, given.valid) - fixed(slots, given.valid).detach()).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = (student(slots, given.valid) - fixed(slots, given.valid)).square().mean(1)
    torch.testing.assert_close(predictor(given).reward, expected, rtol=1e-3, atol=1e-5)


def test_what_was_seen_pays_less_than_what_was_not():
    predictor = RandomDistillation(4, *networks(), sigma=0.0)
    seen, other = random_transitions(4), random_transitions(4, seed=1)
    before = predictor(seen).reward.mean()
    with torch.no_grad():  # as where rewards are handed to a learner
        for _ in range(300):
            predictor.observe(seen)
    assert predictor(seen).reward.mean() < 0.1 * before
    assert predictor(other).reward.mean() > 2 * predictor(seen).reward.mean()


def test_only_the_learner_learns_and_states_without_slots_teach_nothing():
    predictor = RandomDistillation(4, *networks())
    target = [value.clone() for value in predictor.target.parameters()]
    learner = [value.clone() for value in predictor.learner.parameters()]
    given = random_transitions(4)
    assert predictor.observe(SlotTransition(given.slots, torch.zeros_like(given.valid))) == {}
    assert all(map(torch.equal, learner, predictor.learner.parameters()))
    assert predictor.observe(given)["distillation_loss"] > 0
    assert all(map(torch.equal, target, predictor.target.parameters()))
    assert not all(map(torch.equal, learner, predictor.learner.parameters()))


def test_the_scale_of_slots_survives_saving():
    predictor = RandomDistillation(4, *networks())
    predictor.observe(random_transitions(4))
    again = RandomDistillation(4, *networks(seed=1))
    again.load_state_dict(load(save(predictor.state_dict())))
    given = random_transitions(4, seed=1)
    assert again.moments.count > 0
    assert torch.equal(again(given).reward, predictor(given).reward)


@pytest.mark.parametrize("bad", [{"sigma": -1.0}, {"sigma": float("nan")}, {"clip": 0.0}])
def test_bad_input_is_named(bad):
    with pytest.raises(ValueError, match="sigma must not be negative and clip must be positive"):
        RandomDistillation(4, *networks(), **bad)

"""Random distillation counts visits, and without noise it is random network distillation."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.hindsight_curiosity import HindsightCuriosity
from rl_probes.rewards.memory import remember, remembered
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.return_scale import ReturnScale
from rl_probes.rewards.transition import RewardOutput, SlotTransition

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


def test_a_learner_that_gathers_states_learns_what_it_would_from_all_of_them_at_once():
    halves, whole = (RandomDistillation(4, *networks(), sigma=0.0, batch=batch) for batch in (32, 1))
    first, second = random_transitions(4), random_transitions(4, seed=1)
    for _ in range(3):
        assert halves.observe(first) == {}
        assert halves.observe(second)["distillation_loss"] > 0
        whole.observe(SlotTransition(torch.cat([first.slots, second.slots]), torch.cat([first.valid, second.valid])))
    for one, other in zip(halves.learner.parameters(), whole.learner.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    halves.observe(first)
    with pytest.raises(ValueError, match="equally many slots, got 3"):
        halves.observe(random_transitions(4, num_slots=3))


def test_what_waits_to_be_learnt_is_remembered():
    predictor, again = (RandomDistillation(4, *networks(), sigma=0.0, batch=32) for _ in range(2))
    predictor.observe(random_transitions(4))
    remember(again, remembered(predictor))
    for one in (predictor, again):
        one.observe(random_transitions(4, seed=1))
    given = random_transitions(4, seed=2)
    assert torch.equal(again(given).reward, predictor(given).reward)


def test_outputs_begin_of_the_order_of_one_and_differ_between_states():
    """Against noise of deviation 1, a target that hardly differs between states would say nothing about visits."""
    for dim, outputs in ((13, 64), (64, 128)):
        found = SetNetwork(dim, 128, outputs)(torch.randn(512, 9, dim), torch.ones(512, 9, dtype=torch.bool))
        assert 1 / 3 < found.square().mean().sqrt() < 3
        assert found.std(0).mean() > 0.2


class First(RewardPredictor):
    """The first feature of the only slot."""

    kind = "bonus"
    state_dependence = "state"
    bounds = (float("-inf"), float("inf"))
    asked = 0

    def predict(self, transition):
        self.asked += 1
        return RewardOutput(reward=transition.slots[:, 0, 0])


def test_a_bonus_is_divided_by_the_deviation_of_its_discounted_sums():
    values = np.random.default_rng(0).exponential(size=(50, 8)).astype(np.float32)
    bonus, sums, seen = First(), np.zeros(8), []
    predictor = ReturnScale(bonus, 0.9)
    for row in values:
        state = SlotTransition(torch.from_numpy(row)[:, None, None])
        expected = row / (np.std(seen) if seen else 1.0)
        np.testing.assert_allclose(predictor(state).reward.numpy(), expected, rtol=1e-5)
        predictor.observe(state)
        predictor.reset(torch.ones(8, dtype=torch.bool))  # sums go on over the ends of episodes
        sums = 0.9 * sums + row
        seen.append(sums)
    assert bonus.asked == len(values)  # once for each state, to be paid and to be observed
    with pytest.raises(ValueError, match="remembers 8 environments, got 3"):
        predictor.observe(SlotTransition(torch.ones(3, 1, 1)))


@pytest.mark.parametrize("gamma", [-0.1, 1.0, float("nan")])
def test_sums_that_never_settle_are_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\)"):
        ReturnScale(First(), gamma)


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
    with pytest.raises(ValueError, match="a batch of at least one state, got 0"):
        RandomDistillation(4, *networks(), batch=0)


@pytest.mark.parametrize("kind", ["distillation", "hindsight"])
def test_learning_draws_nothing_from_the_global_generator_and_continues_exactly(kind):
    def make():
        torch.manual_seed(5)
        if kind == "hindsight":
            return HindsightCuriosity(4, 3, width=16, outputs=8)
        return RandomDistillation(4, SetNetwork(4, 16, 8), SetNetwork(4, 16, 8))

    def step(i):
        drawn = torch.Generator().manual_seed(i)
        slots, following = torch.randn(2, 16, 3, 4, generator=drawn)
        actions = torch.randint(3, (16,), generator=drawn)
        return SlotTransition(slots, next_slots=following, actions=actions)

    whole, part = make(), make()
    before = torch.get_rng_state()
    for i in range(6):
        whole.observe(step(i))
    assert torch.equal(torch.get_rng_state(), before)
    for i in range(3):
        part.observe(step(i))
    state = remembered(part)
    torch.manual_seed(99)
    again = make()
    torch.manual_seed(77)
    remember(again, state)
    for i in range(3, 6):
        again.observe(step(i))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

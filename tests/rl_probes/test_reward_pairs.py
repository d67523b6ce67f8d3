"""Hops between all pairs of a set of states: the head's own answers, and the same distance."""

import numpy as np
import pytest
import torch

from rl_probes.distances import epic_sampled
from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.pairs_of_states import BLOCK, PairsOfStates
from rl_probes.rewards.transition import SlotTransition

STATES, DIM = 40, 13


def fitted():
    torch.manual_seed(0)
    head = HopReward(DIM)
    head.mean += torch.randn(DIM)
    head.std *= torch.rand(DIM) + 0.5
    head.rho[-1].weight.data *= 4  # hops that spread over (-1, 1)
    return head.eval()


def directly(head, slots, valid):
    """A reward of indices that shows the head every pair."""

    def reward(states, actions, next_states):
        now, then = torch.from_numpy(states.copy()), torch.from_numpy(next_states.copy())
        with torch.no_grad():
            return head(SlotTransition(slots[now], valid[now], slots[then], valid[then])).reward.numpy()

    return reward


@pytest.mark.parametrize("padding", ["none", "some", "garbage"])
def test_every_pair_gets_the_head_s_own_hop(padding):
    head = fitted()
    given = random_transitions(DIM, 5, STATES, masks=padding != "none")
    valid = given.valid.clone()
    slots = given.slots
    if padding == "garbage":
        valid[3] = False  # a state without slots
        slots = slots.masked_fill(~valid[..., None], float("nan"))
    first, second = (axis.ravel() for axis in np.indices((STATES, STATES)))
    expected = directly(head, slots, valid)(first, None, second)
    found = PairsOfStates(head, slots, None if padding == "none" else valid)(first, None, second)
    assert len(found) > 3 * BLOCK
    assert len(found) % BLOCK
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_epic_is_that_of_the_head():
    head, generator = fitted(), np.random.default_rng(0)
    given = random_transitions(DIM, 5, STATES)
    states, following, actions = np.arange(20), np.arange(20, STATES), generator.integers(4, size=20)
    place = given.slots[:, :, 0].sum(1).numpy()

    def movement(s, a, then):
        return place[then] - place[s] + 0.1 * a

    rewards = PairsOfStates(head, given.slots, given.valid), directly(head, given.slots, given.valid)
    once, direct = (epic_sampled(reward, movement, states, actions, following, 0.9, pairs=15) for reward in rewards)
    assert once == pytest.approx(direct, abs=1e-5)
    assert 0.1 < once < 0.9


def test_a_state_that_is_not_there_is_refused():
    with pytest.raises(IndexError):
        PairsOfStates(fitted(), torch.zeros(3, 2, DIM))(np.array([0]), np.array([0]), np.array([3]))

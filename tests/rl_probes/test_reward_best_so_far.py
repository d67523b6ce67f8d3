"""Only what was never reached before is paid."""

from itertools import pairwise

import pytest
import torch

from rl_probes.rewards.best_so_far import BestSoFar
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class Closeness(RewardPredictor):
    """Minus the smallest distance to the origin."""

    kind = "potential"
    state_dependence = "state"
    bounds = (float("-inf"), 0.0)

    def predict(self, transition):
        return RewardOutput(reward=-transition.slots.norm(dim=2).amin(1))


def step(now, then, valid=None):
    return SlotTransition(now.view(-1, 1, 1), next_slots=then.view(-1, 1, 1), next_valid=valid)


def earned(predictor, distances):
    """(T+1 B) -> (T B)"""
    rewards = []
    for now, then in pairwise(distances):
        rewards.append(predictor(step(now, then)).reward)
        predictor.observe(step(now, then))
    return torch.stack(rewards)


def test_an_episode_sums_to_the_start_minus_the_smallest_distance():
    distances = torch.rand(50, 100) * 3
    rewards = earned(BestSoFar(Closeness()), distances)
    torch.testing.assert_close(rewards.sum(0), distances[0] - distances.amin(0))
    assert (rewards >= 0).all()


def test_oscillation_earns_nothing_after_the_first_pass():
    there_and_back = torch.tensor([3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 1.0, 0.5])[:, None]
    rewards = earned(BestSoFar(Closeness()), there_and_back)[:, 0]
    assert rewards.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]


def test_reset_forgets_the_environments_it_is_given():
    predictor = BestSoFar(Closeness())
    earned(predictor, torch.tensor([[3.0, 3.0], [1.0, 1.0]]))
    predictor.reset(torch.tensor([True, False]))
    again = step(torch.tensor([3.0, 3.0]), torch.tensor([2.0, 2.0]))
    assert predictor(again).reward.tolist() == [1.0, 0.0]
    predictor.reset()
    assert predictor(again).reward.tolist() == [1.0, 1.0]


def test_losing_every_slot_is_no_success():
    predictor = BestSoFar(Closeness())
    lost = step(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([[False]]))
    assert predictor(lost).reward.tolist() == [0.0]
    predictor.observe(lost)
    assert predictor(step(torch.tensor([3.0]), torch.tensor([1.0]))).reward.tolist() == [2.0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="needs a potential, got BestSoFar of kind 'reward'"):
        BestSoFar(BestSoFar(Closeness()))
    predictor = BestSoFar(Closeness())
    predictor.observe(step(torch.ones(2), torch.ones(2)))
    with pytest.raises(ValueError, match="remembers 2 environments, got 3"):
        predictor(step(torch.ones(3), torch.ones(3)))

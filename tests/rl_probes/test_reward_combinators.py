"""Combinators: closed forms, what they pass on, and moments that survive saving."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rl_probes.rewards.combine import BoundedCentered, KeyReward, RunningScale, WeightedSum, key_reward
from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.goal_similarity import Columns, SlotGoalSimilarity
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.running import RunningMoments
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class Feature(RewardPredictor):
    """The largest value of one feature."""

    kind = "potential"
    state_dependence = "state"
    bounds = (-1.0, 1.0)

    def __init__(self, column):
        super().__init__()
        self.column = column

    def predict(self, transition):
        return RewardOutput(reward=transition.slots[..., self.column].amax(1).clamp(-1, 1))


def state(*values):
    return SlotTransition(torch.tensor(values).view(len(values), 1, -1))


def test_key_reward_by_hand():
    found = key_reward(torch.tensor([[0.9, -0.5, 0.5, 0.0, 1.0], [0.1, -0.5, -0.5, 0.7, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([0.3, -0.5, -0.5, 0.0, 1.0]))
    many = torch.rand(4, 100) * 2 - 1
    torch.testing.assert_close(key_reward(many), key_reward(many[[2, 0, 3, 1]]))
    torch.testing.assert_close(key_reward(many).abs(), many.abs().prod(0) ** 0.25)


def test_key_reward_of_predictors():
    parts = [Feature(0), Feature(1)]
    predictor = KeyReward(parts)
    assert predictor.kind == "potential"
    torch.testing.assert_close(predictor(state([0.9, 0.1], [0.5, -0.5])).reward, torch.tensor([0.3, -0.5]))
    with pytest.raises(ValueError, match="in \\[-1, 1\\]"):
        KeyReward([PotentialShaping(Feature(0), 0.9)])


def test_a_weighted_sum_is_one():
    predictor = WeightedSum([Feature(0), Feature(1)], [2.0, -0.5])
    assert predictor.kind == "potential"
    assert predictor.bounds == (-2.5, 2.5)
    torch.testing.assert_close(predictor(state([0.5, 1.0], [-1.0, 0.2])).reward, torch.tensor([0.5, -2.1]))


def test_a_potential_beside_a_transition_is_read_at_the_next_state():
    given = random_transitions(4)
    shaping = PotentialShaping(Feature(0), 0.9)
    predictor = WeightedSum([shaping, Feature(1)], [1.0, 3.0])
    assert (predictor.kind, predictor.state_dependence) == ("reward", "transition")
    expected = shaping(given).reward + 3 * Feature(1)(given.advanced()).reward
    torch.testing.assert_close(predictor(given).reward, expected)


def test_centred_rewards_are_bounded_half_at_the_reference_and_monotone():
    one = BoundedCentered(Feature(0), torch.tensor([0.25]))
    assert one(state([0.25])).reward.item() == 0.5
    many = BoundedCentered(Feature(0), torch.randn(50), slope=4.0)
    values = many(SlotTransition(torch.linspace(-1, 1, 100)[:, None, None])).reward
    assert (values.diff() > 0).all()
    assert ((values > 0) & (values < 1)).all()


def test_running_moments_equal_numpys_and_survive_saving():
    rng = np.random.default_rng(0)
    values = rng.normal(1000.0, 0.5, (1000, 3))
    moments = RunningMoments((3,))
    assert moments.std().tolist() == [1.0, 1.0, 1.0]
    for part in np.split(values, [1, 10, 400, 400]):
        moments.add(torch.from_numpy(part))
    np.testing.assert_allclose(moments.mean.numpy(), values.mean(0))
    np.testing.assert_allclose(moments.std().numpy(), values.std(0), rtol=1e-6)
    again = RunningMoments((3,))
    again.load_state_dict(load(save(moments.state_dict())))
    assert torch.equal(again.std(), moments.std())


def test_running_scale_divides_by_what_was_observed():
    predictor = RunningScale(Feature(0))
    given = state([0.1], [0.5], [-0.3])
    torch.testing.assert_close(predictor(given).reward, torch.tensor([0.1, 0.5, -0.3]))
    predictor.observe(given)
    scaled = predictor(given).reward
    assert scaled.std(correction=0).item() == pytest.approx(1.0, rel=1e-5)
    assert scaled[1].item() == pytest.approx(0.5 / np.std([0.1, 0.5, -0.3]), rel=1e-5)
    again = RunningScale(Feature(0))
    again.load_state_dict(load(save(predictor.state_dict())))
    assert torch.equal(again(given).reward, scaled)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: WeightedSum([], []), "at least one predictor"),
        (lambda: WeightedSum([Feature(0)], [1.0, 2.0]), "as many finite weights"),
        (lambda: WeightedSum([Feature(0)], [float("nan")]), "as many finite weights"),
        (lambda: BoundedCentered(Feature(0), torch.zeros(0)), "finite reference rewards"),
        (lambda: BoundedCentered(Feature(0), torch.zeros(3), slope=0.0), "positive slope"),
        (lambda: WeightedSum([SlotGoalSimilarity([Columns([0])])], [1.0])(state([0.0])), "needs goal_slots"),
        (lambda: WeightedSum([PotentialShaping(DeepSetProgress(1), 1.0)], [1.0])(state([0.0])), "next_slots"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

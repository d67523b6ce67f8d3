"""The weights of a blend move along the exact derivative of the task's return through one policy step."""

import pytest
import torch
from safetensors.torch import load, save

from rl_probes.rewards.aligned_blend import AlignedBlend, policy_gradients
from rl_probes.rewards.goal_similarity import Columns, SlotGoalSimilarity
from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class Feature(RewardPredictor):
    """One feature of the only slot, as a reward of s."""

    kind = "reward"
    state_dependence = "state"
    bounds = (float("-inf"), float("inf"))

    def __init__(self, column):
        super().__init__()
        self.column = column

    def predict(self, transition):
        return RewardOutput(reward=transition.slots[:, 0, self.column])


def of_arms(theta, rewards):
    """Exact policy gradients (n P) of a softmax over arms under rewards (n arms)."""
    logits = theta.clone().requires_grad_()
    log_probability = logits.log_softmax(0)
    weight = len(theta) * log_probability.exp().detach()  # every arm as often as it is drawn
    return policy_gradients(log_probability, weight * rewards, [logits])


def test_the_policy_gradient_of_a_bandit():
    theta, rewards = torch.randn(5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    share = theta.softmax(0)
    expected = share * (rewards - (rewards @ share)[:, None])
    torch.testing.assert_close(of_arms(theta, rewards), expected)


def test_the_weights_move_along_the_derivative_through_a_policy_step():
    """Against central differences of the task's return after the step."""
    theta, rewards = torch.randn(6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    weights, eta = torch.tensor([1.0, 0.5, -0.25, 2.0], dtype=torch.float64), 0.7
    components = of_arms(theta, rewards)

    def task_return(w):
        return (theta + eta * w @ components).softmax(0) @ rewards[0]

    after = of_arms(theta + eta * weights @ components, rewards[:1])[0]
    blend = AlignedBlend([Feature(0), Feature(0), Feature(0)], weights.tolist()).double()
    figures = blend.align(components, after, rate=eta)
    for i, direction in enumerate(1e-5 * torch.eye(4, dtype=torch.float64)):
        derivative = (task_return(weights + direction) - task_return(weights - direction)) / 2e-5
        assert (blend.weights[i] - weights[i]).item() == pytest.approx(derivative.item(), abs=1e-8)
        assert figures[f"blend_weight_{i}"] == blend.weights[i].item()


def learnt_arm(rewards, rate):
    """The arm that gradient ascent on the blend ends at, and the blend."""
    theta = torch.zeros(rewards.shape[1], dtype=torch.float64)
    blend = AlignedBlend([Feature(0)] * (len(rewards) - 1), [1.0] * len(rewards)).double()
    for _ in range(500):
        components = of_arms(theta, rewards)
        theta = theta + blend.weights @ components
        blend.align(components, of_arms(theta, rewards[:1])[0], rate)
    return int(theta.argmax()), blend


def test_a_misleading_reward_is_unlearnt_and_a_helpful_one_is_kept():
    task = torch.tensor([0.0, 0.2, 1.0, 0.0], dtype=torch.float64)
    misleading = torch.tensor([0.0, 2.0, 0.0, 0.0], dtype=torch.float64)
    helpful = torch.tensor([-0.5, -0.5, 0.5, -0.5], dtype=torch.float64)
    rewards = torch.stack([task, misleading, helpful])
    assert learnt_arm(rewards[:2], rate=0.0)[0] == 1  # as it is, the designed reward wins
    arm, blend = learnt_arm(rewards[:2], rate=10.0)
    assert arm == 2
    assert blend.weights[1] < 0.3
    arm, blend = learnt_arm(rewards, rate=10.0)
    assert arm == 2
    assert blend.weights[2] > 1 > blend.weights[1]


def test_the_blend_is_the_weighted_sum_and_survives_saving():
    slots, following = torch.randn(2, 7, 1, 3)
    paid = torch.randn(7)
    blend = AlignedBlend([Feature(0), Feature(2)], [1.0, 0.5, -2.0])
    output = blend(SlotTransition(slots, next_slots=following, rewards=paid))
    torch.testing.assert_close(output.reward, paid + 0.5 * following[:, 0, 0] - 2 * following[:, 0, 2])
    assert torch.equal(output.extras["components"][0], paid)
    again = AlignedBlend([Feature(0), Feature(2)], [0.0, 0.0, 0.0])
    again.load_state_dict(load(save(blend.state_dict())))
    assert torch.equal(again.weights, blend.weights)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: AlignedBlend([], [1.0]), "at least one predictor"),
        (lambda: AlignedBlend([Feature(0)], [1.0]), "need 2 finite weights"),
        (lambda: AlignedBlend([Feature(0)], [1.0, float("inf")]), "need 2 finite weights"),
        (lambda: AlignedBlend([Feature(0)], [1.0, 1.0])(SlotTransition(torch.zeros(1, 1, 1))), "next_slots, rewards"),
        (
            lambda: AlignedBlend([SlotGoalSimilarity([Columns([0])])], [1.0, 1.0]).check(
                SlotTransition(torch.zeros(1, 1, 1), next_slots=torch.zeros(1, 1, 1), rewards=torch.zeros(1))
            ),
            "needs goal_slots",
        ),
        (lambda: AlignedBlend([Feature(0)], [1, 1]).align(torch.zeros(3, 4), torch.zeros(4), 1.0), r"must be \(2, P\)"),
        (lambda: AlignedBlend([Feature(0)], [1, 1]).align(torch.zeros(2, 4), torch.zeros(5), 1.0), r"must be \(2, P\)"),
        (
            lambda: AlignedBlend([Feature(0)], [1, 1]).align(torch.zeros(2, 1), torch.tensor([torch.nan]), 1.0),
            "holds NaN or infinity",
        ),
        (lambda: policy_gradients(torch.zeros(3), torch.zeros(2, 4), []), r"must be \(n, N\)"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()

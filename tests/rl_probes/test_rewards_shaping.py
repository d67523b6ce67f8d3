"""Potential shaping pays a known sum and leaves the optimal policy alone."""

import numpy as np
import pytest
import torch

from rl_probes.rewards.predictor import RewardPredictor
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping, shape
from rl_probes.rewards.transition import RewardOutput, SlotTransition


class FirstFeature(RewardPredictor):
    """A potential that can be set by hand: the largest first feature."""

    kind = "potential"
    state_dependence = "state"
    bounds = (0.0, 1.0)

    def predict(self, transition):
        return RewardOutput(reward=transition.slots[..., 0].amax(1))


@pytest.mark.parametrize("gamma", [0.9, 0.99, 1.0])
@pytest.mark.parametrize("terminates", [True, False])
def test_the_shaping_of_an_episode_sums_to_its_boundary(gamma, terminates):
    """-Phi(s_0) where the task ended, gamma^T Phi(s_T) - Phi(s_0) where only the time ran out."""
    steps = 20
    potential = torch.rand(steps + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    slots = potential[:, None, None].expand(-1, 3, 4)
    terminated = torch.zeros(steps, dtype=torch.bool)
    terminated[-1] = terminates
    shaped = PotentialShaping(FirstFeature(), gamma)(
        SlotTransition(slots[:-1], next_slots=slots[1:], rewards=torch.zeros(steps), terminated=terminated)
    )
    total = float((gamma ** np.arange(steps) * shaped.reward.double().numpy()).sum())
    expected = -potential[0].item() + (0.0 if terminates else gamma**steps * potential[-1].item())
    assert total == pytest.approx(expected, abs=1e-6)


def test_the_environments_reward_is_added():
    shaped = shape(torch.tensor([1.0]), torch.tensor([0.25]), torch.tensor([0.5]), torch.tensor([False]), 0.9)
    assert shaped.item() == pytest.approx(1.0 + 0.45 - 0.25)


def test_an_empty_state_keeps_the_sum_telescoping():
    """The potential of a state without slots is 0 wherever it occurs, also between two full states."""
    potential = torch.tensor([0.3, 0.0, 0.6])
    slots = potential[:, None, None].expand(-1, 2, 4)
    valid = torch.tensor([[True, True], [False, False], [True, True]])
    shaped = PotentialShaping(FirstFeature(), 1.0)(
        SlotTransition(
            slots[:-1],
            valid[:-1],
            slots[1:],
            valid[1:],
            rewards=torch.tensor([0.0, 1.0]),
            terminated=torch.zeros(2, dtype=torch.bool),
        )
    )
    torch.testing.assert_close(shaped.reward, torch.tensor([-0.3, 1.6]))


def greedy(reward, following, terminal, gamma):
    """Greedy actions (S) and values (S) of a deterministic MDP: reward, following, terminal each (S A)."""
    value = np.zeros(len(reward))
    for _ in range(2000):
        table = reward + gamma * np.where(terminal, 0.0, value[following])
        value = table.max(1)
    return table.argmax(1), value


def shaped_table(reward, potential, following, terminal, gamma):
    """The library's shaping on tables (S A)."""
    states, actions = reward.shape
    flat = shape(
        torch.from_numpy(reward).flatten(),
        torch.from_numpy(np.repeat(potential, actions)),
        torch.from_numpy(potential[following]).flatten(),
        torch.from_numpy(terminal).flatten(),
        gamma,
    )
    return flat.view(states, actions).numpy()


@pytest.mark.parametrize("gamma", [0.8, 0.95, 0.99])
def test_the_greedy_policy_of_a_chain_survives_any_potential(gamma):
    """Five states, left or right, ends pay 0.4 (left) and 1 (right): near enough to need planning."""
    states = np.arange(5)
    following = np.stack([np.maximum(states - 1, 0), np.minimum(states + 1, 4)], 1)
    terminal = np.zeros((5, 2), bool)
    terminal[0, 0] = terminal[4, 1] = True
    reward = np.zeros((5, 2))
    reward[0, 0], reward[4, 1] = 0.4, 1.0
    plain, value = greedy(reward, following, terminal, gamma)
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(20):
        potential = rng.normal(size=5) * 3
        shaped = shaped_table(reward, potential, following, terminal, gamma)
        actions, shaped_value = greedy(shaped, following, terminal, gamma)
        assert (actions == plain).all()
        np.testing.assert_allclose(shaped_value, value - potential, atol=1e-9)
        leaking = reward + gamma * potential[following] - potential[:, None]  # the potential kept at terminations
        changed += (greedy(leaking, following, terminal, gamma)[0] != plain).any()
    assert changed > 5  # the invariance is not trivial here


@pytest.mark.parametrize("gamma", [0.8, 0.9, 0.95, 0.99])
def test_a_fast_dead_end_does_not_beat_a_slow_goal(gamma):
    """From the fork, a dead end of potential 0.8 in one step, or the goal of potential 1 after six flat steps."""
    fork, dead_end, goal = 0, 1, 7  # states 2..6 lie on the way to the goal
    following = np.array([[dead_end, 2], [1, 1], *([k + 1, k + 1] for k in range(2, 7)), [7, 7]])
    terminal = np.isin(following, [dead_end, goal])
    potential = np.zeros(8)
    potential[[dead_end, goal]] = 0.8, 1.0
    # The two end states are never acted in; every action that reaches them ends the episode.
    difference = potential[following] - potential[:, None]
    difference[[dead_end, goal]] = 0.0
    assert greedy(difference, following, terminal, gamma)[0][fork] == (1 if gamma == 0.99 else 0)
    gold = (following == goal).astype(float)
    gold[goal] = 0.0
    shaped = shaped_table(gold, potential, following, terminal, gamma)
    shaped[[dead_end, goal]] = 0.0
    actions, value = greedy(shaped, following, terminal, gamma)
    assert actions[fork] == 1
    assert value[fork] == pytest.approx(gamma**5, abs=1e-9)
    assert shaped[fork, 0] == 0.0


def test_only_a_potential_can_shape():
    with pytest.raises(ValueError, match="needs a potential"):
        PotentialShaping(PotentialShaping(DeepSetProgress(4), 0.9), 0.9)
    with pytest.raises(ValueError, match="gamma"):
        PotentialShaping(DeepSetProgress(4), 99)

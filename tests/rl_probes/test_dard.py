from itertools import product

import numpy as np
import pytest

from rl_probes.dard import canonical_dard_tabular, dard_sampled, dard_tabular
from rl_probes.distances import CHANCE, epic_tabular, pearson_distance

GAMMA = 0.9
STATES, ACTIONS = 12, 4


@pytest.fixture
def mdp():
    """A random reward (S A S), a potential (S), a transition kernel (S A S) and a distribution of actions."""
    rng = np.random.default_rng(3)
    return (
        rng.normal(size=(STATES, ACTIONS, STATES)),
        rng.normal(size=STATES),
        rng.dirichlet(np.full(STATES, 0.3), size=(STATES, ACTIONS)),
        rng.dirichlet(np.ones(ACTIONS)),
    )


def shaped(reward, potential, gamma):
    return reward + gamma * potential[None, None, :] - potential[:, None, None]


def dynamics(kernel):
    """Draws from the kernel by the inverse of its cumulative sums."""
    cumulative = kernel.cumsum(-1)
    cumulative[..., -1] = 1.0
    return lambda s, a, rng: (rng.random(len(s))[:, None] < cumulative[s, a]).argmax(-1)


def test_the_canonical_form_is_its_definition_term_by_term():
    rng = np.random.default_rng(0)
    reward, kernel, over = rng.normal(size=(3, 2, 3)), rng.dirichlet(np.ones(3), size=(3, 2)), np.array([0.3, 0.7])
    expected = reward.copy()
    for s, a, t in product(range(3), range(2), range(3)):
        for b, u, v in product(range(2), range(3), range(3)):
            probability = over[b] * kernel[s, b, u] * kernel[t, b, v]
            expected[s, a, t] += probability * (GAMMA * reward[t, b, v] - reward[s, b, u] - GAMMA * reward[u, b, v])
    np.testing.assert_allclose(canonical_dard_tabular(reward, kernel, GAMMA, over), expected, atol=1e-12)


def test_scaling_shifting_and_shaping_change_nothing(mdp):
    reward, potential, kernel, over = mdp
    other = shaped(3.0 * reward + 1.7, 5.0 * potential, GAMMA)
    assert pearson_distance(reward.ravel(), other.ravel(), kernel.ravel()) > 0.3  # raw rewards look far apart
    assert dard_tabular(reward, other, kernel, GAMMA, action_distribution=over) < 1e-6
    assert dard_tabular(reward, other, kernel, GAMMA, coverage=np.ones_like(reward)) < 1e-6


def test_the_opposite_is_at_one_a_constant_at_chance_and_another_discount_is_seen(mdp):
    reward, potential, kernel, _ = mdp
    opposite = shaped(-reward, potential, GAMMA)
    assert dard_tabular(reward, opposite, kernel, GAMMA) == pytest.approx(1, abs=1e-6)
    assert dard_tabular(reward, np.full_like(reward, 4.2), kernel, GAMMA) == pytest.approx(CHANCE, abs=1e-12)
    pure_shaping = shaped(np.zeros_like(reward), potential, GAMMA)
    assert dard_tabular(reward, pure_shaping, kernel, GAMMA) == pytest.approx(CHANCE, abs=1e-12)
    assert dard_tabular(reward, shaped(reward, 5 * potential, 0.99), kernel, GAMMA) > 0.01


def test_dynamics_that_forget_the_state_give_epic(mdp):
    """Where S' depends on nothing, S' and S'' are EPIC's S' and the two forms agree."""
    reward, potential, _, over = mdp
    marginal = np.random.default_rng(1).dirichlet(np.ones(STATES))
    kernel = np.broadcast_to(marginal, reward.shape)
    other = shaped(reward, potential, GAMMA) + np.random.default_rng(2).normal(size=reward.shape)
    assert dard_tabular(reward, other, kernel, GAMMA, action_distribution=over) == pytest.approx(
        epic_tabular(reward, other, GAMMA, state_distribution=marginal, action_distribution=over, coverage=kernel),
        abs=1e-12,
    )


def test_sampled_dard_approaches_the_exact_one(mdp):
    reward, potential, kernel, over = mdp
    rng = np.random.default_rng(1)
    other = shaped(reward, 3 * potential, GAMMA) + rng.normal(size=reward.shape)
    exact = dard_tabular(reward, other, kernel, GAMMA, action_distribution=over, coverage=over[None, :, None] * kernel)
    assert 0.2 < exact < 0.6
    states, actions = rng.integers(STATES, size=20_000), rng.choice(ACTIONS, size=20_000, p=over)
    move = dynamics(kernel)
    sample = (states, actions, move(states, actions, rng))
    for seed in range(3):
        found = dard_sampled(lambda *t: reward[t], lambda *t: other[t], *sample, move, GAMMA, draws=128, seed=seed)
        assert found == pytest.approx(exact, abs=0.02)


def test_sampled_dard_ignores_shaping_with_a_single_draw(mdp):
    reward, potential, kernel, _ = mdp
    rng = np.random.default_rng(2)
    other = shaped(2 * reward, potential, GAMMA)
    move = dynamics(kernel)
    states, actions = rng.integers(STATES, size=200), rng.integers(ACTIONS, size=200)
    sample = (states, actions, move(states, actions, rng))
    assert dard_sampled(lambda *t: reward[t], lambda *t: other[t], *sample, move, GAMMA, draws=1) < 1e-6


def test_bad_input_is_named(mdp):
    reward, _, kernel, _ = mdp
    with pytest.raises(ValueError, match="sum to one"):
        dard_tabular(reward, reward, 2 * kernel, GAMMA)
    with pytest.raises(ValueError, match="finite"):
        dard_tabular(reward, np.full_like(reward, np.nan), kernel, GAMMA)
    with pytest.raises(ValueError, match="shape of the reward"):
        dard_tabular(reward[:, :2], reward[:, :2], kernel, GAMMA)
    with pytest.raises(ValueError, match="states, actions, states"):
        dard_tabular(reward[:3], reward[:3], kernel, GAMMA)
    with pytest.raises(ValueError, match="at least one transition and one draw"):
        dard_sampled(*[lambda *t: reward[t]] * 2, *[np.zeros(3, int)] * 3, dynamics(kernel), GAMMA, draws=0)

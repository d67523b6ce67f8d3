import numpy as np
import pytest
from scipy.stats import pearsonr

from rl_probes.distances import (
    CHANCE,
    bootstrap,
    epic_sampled,
    epic_tabular,
    pearson_distance,
    pearson_distance_interval,
)

GAMMA = 0.9


@pytest.fixture
def mdp():
    """A random reward table (S A S), a potential (S), distributions of states and actions, and a coverage."""
    rng = np.random.default_rng(3)
    states, actions = 12, 4
    return (
        rng.normal(size=(states, actions, states)),
        rng.normal(size=states),
        {
            "state_distribution": rng.dirichlet(np.ones(states)),
            "action_distribution": rng.dirichlet(np.ones(actions)),
            "coverage": rng.dirichlet(np.ones(states * actions * states)).reshape(states, actions, states),
        },
    )


def shaped(reward, potential, gamma):
    return reward + gamma * potential[None, None, :] - potential[:, None, None]


def test_scaling_shifting_and_shaping_change_nothing(mdp):
    reward, potential, distributions = mdp
    other = shaped(3.0 * reward + 1.7, 5.0 * potential, GAMMA)
    assert pearson_distance(reward.ravel(), other.ravel()) > 0.3  # raw rewards look far apart
    assert epic_tabular(reward, other, GAMMA, **distributions) < 1e-6
    assert epic_tabular(reward, other, GAMMA) < 1e-6


def test_the_opposite_reward_is_at_one(mdp):
    reward, potential, distributions = mdp
    assert epic_tabular(reward, shaped(-reward, potential, GAMMA), GAMMA, **distributions) == pytest.approx(1, abs=1e-6)


def test_shaping_with_another_discount_is_seen(mdp):
    reward, potential, distributions = mdp
    assert epic_tabular(reward, shaped(reward, 5 * potential, 0.99), GAMMA, **distributions) > 0.01


def test_rewards_of_the_next_state_need_no_canonicalisation(mdp):
    _, _, distributions = mdp
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 12))
    tables = [np.broadcast_to(values, (12, 4, 12)) for values in (first, second)]
    over_next_states = distributions["coverage"].sum((0, 1))
    assert epic_tabular(*tables, GAMMA, **distributions) == pytest.approx(
        pearson_distance(first, second, over_next_states), abs=1e-9
    )


def test_a_constant_is_at_chance(mdp):
    reward, _, distributions = mdp
    assert pytest.approx(0.70710678, abs=1e-8) == CHANCE
    assert epic_tabular(reward, np.full_like(reward, 4.2), GAMMA, **distributions) == pytest.approx(CHANCE, abs=1e-12)
    pure_shaping = shaped(np.zeros_like(reward), 5.0 * distributions["state_distribution"], GAMMA)
    assert epic_tabular(reward, pure_shaping, GAMMA, **distributions) == pytest.approx(CHANCE, abs=1e-12)
    assert pearson_distance(np.full(5, 0.1), np.full(5, 0.3)) == pytest.approx(CHANCE, abs=1e-12)
    truth = np.arange(6) % 2
    rounded = np.where(truth == 1, np.nextafter(0.3, 1), 0.3)  # constant, but for the last digit
    assert pearson_distance(rounded, truth) == pytest.approx(CHANCE, abs=1e-12)
    assert pearson_distance(1e6 + 1e-3 * truth, truth) == pytest.approx(0.0, abs=1e-4)  # small, and no rounding


def test_sampled_epic_approaches_the_exact_one(mdp):
    reward, potential, distributions = mdp
    rng = np.random.default_rng(1)
    other = shaped(reward, 3 * potential, GAMMA) + rng.normal(size=reward.shape)
    states, actions = distributions["state_distribution"], distributions["action_distribution"]
    exact = epic_tabular(
        reward,
        other,
        GAMMA,
        state_distribution=states,
        action_distribution=actions,
        coverage=states[:, None, None] * actions[None, :, None] * states[None, None, :],
    )
    assert 0.2 < exact < 0.6
    sample = [rng.choice(len(p), size=20_000, p=p) for p in (states, actions, states)]
    for seed in range(3):
        found = epic_sampled(
            lambda s, a, t: reward[s, a, t], lambda s, a, t: other[s, a, t], *sample, GAMMA, pairs=512, seed=seed
        )
        assert found == pytest.approx(exact, abs=0.02)


def test_sampled_epic_ignores_shaping_on_any_sample(mdp):
    """Exact invariance needs no large pool: the pool's own mean of the potential cancels."""
    reward, potential, _ = mdp
    rng = np.random.default_rng(2)
    other = shaped(2 * reward, potential, GAMMA)
    sample = [rng.integers(n, size=200) for n in reward.shape]
    found = epic_sampled(lambda *t: reward[t], lambda *t: other[t], *sample, GAMMA, pairs=64)
    assert found < 1e-6


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_pearson_distance_equals_scipy(offset):
    rng = np.random.default_rng(0)
    x = rng.normal(size=4096) + offset
    y = 0.3 * x + rng.normal(size=4096)
    assert pearson_distance(x, y) == pytest.approx(np.sqrt((1 - pearsonr(x, y)[0]) / 2), abs=1e-7)


def test_weights_count_as_repetitions():
    rng = np.random.default_rng(0)
    x, y, times = rng.normal(size=50), rng.normal(size=50), rng.integers(0, 4, size=50)
    assert pearson_distance(x, y, times) == pytest.approx(
        pearson_distance(np.repeat(x, times), np.repeat(y, times)), abs=1e-12
    )


def test_the_interval_is_over_episodes():
    """Repeating every step changes nothing, and the fast form equals resampling episodes one by one."""
    rng = np.random.default_rng(0)
    episodes = np.repeat(np.arange(40), 25)
    x = rng.normal(size=40)[episodes] + 0.1 * rng.normal(size=1000)
    y = x + rng.normal(size=40)[episodes]
    found = pearson_distance_interval(x, y, episodes)
    twice = pearson_distance_interval(np.repeat(x, 2), np.repeat(y, 2), np.repeat(episodes, 2))
    np.testing.assert_allclose(found, twice, atol=1e-12)
    slow = bootstrap(
        lambda a, b: pearson_distance(a.ravel(), b.ravel()), x.reshape(40, 25), y.reshape(40, 25), resamples=1000
    )
    assert found[0] == pytest.approx(slow[0], abs=1e-12)
    np.testing.assert_allclose(found[1:], slow[1:], atol=0.02)
    assert found[1] < found[0] < found[2]
    steps = pearson_distance_interval(x, y, np.arange(1000))
    assert steps[2] - steps[1] < 0.5 * (found[2] - found[1])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (([1.0], [1.0, 2.0]), "same transitions"),
        (([], []), "same transitions"),
        (([1.0, np.nan], [1.0, 2.0]), "finite"),
        (([1.0, 2.0], [1.0, 2.0], [0.0, 0.0]), "not all zero"),
    ],
)
def test_bad_input_is_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        pearson_distance(*arguments)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, float("nan")])
def test_what_is_no_discount_is_refused(gamma):
    table = np.zeros((3, 2, 3))
    with pytest.raises(ValueError, match="gamma must be in"):
        epic_tabular(table, table, gamma)


def test_sampled_epic_needs_transitions_and_pairs():
    def reward(states, actions, next_states):
        return next_states

    for count, pairs in ((0, 4), (3, 0)):
        states = np.arange(count, dtype=float)
        with pytest.raises(ValueError, match="at least one transition and one pair"):
            epic_sampled(reward, reward, states, states, states, GAMMA, pairs=pairs)


def test_a_table_of_another_shape_is_named():
    with pytest.raises(ValueError, match="states, actions, states"):
        epic_tabular(np.zeros((3, 2, 4)), np.zeros((3, 2, 4)), GAMMA)


def test_whole_numbers_are_asked_about_once_each():
    """Steps in a row: each state is the end of one step and the beginning of the next."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(65, 3, 65))
    asked = []

    def counted(s, a, t):
        asked.append(len(s))
        return table[s.astype(int), a, t.astype(int)]

    def other(s, a, t):
        return table[s.astype(int), a, t.astype(int)] + np.sin(s) + np.cos(3 * t)

    states, actions = np.arange(64), rng.integers(3, size=64)
    once = epic_sampled(counted, other, states, actions, states + 1, GAMMA, pairs=40)
    assert asked == [65] * 40 + [64]
    plain = epic_sampled(counted, other, states.astype(float), actions, states + 1.0, GAMMA, pairs=40)
    assert asked[41:] == [128] * 40 + [64]
    assert once == pytest.approx(plain, abs=1e-12)
    assert 0.05 < once < 0.95

import numpy as np
from scipy.stats import chisquare, kstest

from rl_probes.envs.streams import Streams


def test_a_stream_does_not_depend_on_its_neighbours():
    seeds = np.array([7, 8, 2**63 - 1, 0])
    together = Streams(seeds)
    first = together.uniform(3)
    second = together.uniform(2, rows=np.array([2, 0]))
    third = together.uniform(1)
    for place, seed in enumerate(seeds):
        alone = Streams(np.array([seed]))
        assert np.array_equal(alone.uniform(3)[0], first[place])
        if place in (0, 2):
            assert np.array_equal(alone.uniform(2)[0], second[0 if place == 2 else 1])
        assert np.array_equal(alone.uniform(1)[0], third[place])


def test_numbers_are_uniform_within_and_across_streams():
    along = Streams(np.array([3])).uniform(200_000)[0]
    across = Streams(np.arange(200_000)).uniform(2)
    for numbers in (along, across[:, 0], across[:, 1]):
        assert kstest(numbers, "uniform").pvalue > 1e-4
    pairs = np.histogram2d(across[:-1, 0], across[1:, 0], bins=20)[0]  # neighbouring seeds
    assert chisquare(pairs.ravel()).pvalue > 1e-4
    assert abs(np.corrcoef(along[:-1], along[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(across.T)[0, 1]) < 0.01


def test_integers_reach_every_value_below_their_bound():
    bounds = np.tile([1, 2, 5], 6000)
    drawn = Streams(np.arange(len(bounds))).below(bounds)
    assert drawn.dtype == np.int64
    for bound in (1, 2, 5):
        counts = np.bincount(drawn[bounds == bound])
        assert len(counts) == bound
        assert chisquare(counts).pvalue > 1e-4 if bound > 1 else counts[0] == 6000

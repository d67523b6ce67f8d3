"""The episodic bonus counts visits of the episode, environment by environment."""

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from rl_probes.rewards.contract import (
    check_attribution,
    check_empty,
    check_order,
    check_padding,
    check_repeatable,
    random_transitions,
)
from rl_probes.rewards.episodic_novelty import EpisodicNovelty
from rl_probes.rewards.novelty import SetNetwork
from rl_probes.rewards.transition import SlotTransition

C = 1e-3


class FirstSlot(nn.Module):
    """Embeds a set of one slot as that slot."""

    def forward(self, slots, valid):
        return slots[:, 0]


def at(places):
    """One environment each, at these places (B,) or (B E)."""
    places = torch.as_tensor(places, dtype=torch.float32)
    return SlotTransition(places.reshape(len(places), 1, -1))


def test_the_bonus_counts_visits():
    """n visits to one place: sqrt(n) + c up to n = k, and what is far away adds next to nothing."""
    novelty = EpisodicNovelty(FirstSlot(), neighbours=10)
    assert novelty(at([0.0])).reward.item() == 0.0  # nothing to differ from
    novelty.observe(at([100.0]))
    for visit in range(1, 15):
        novelty.observe(at([0.0]))
        assert novelty(at([0.0])).reward.item() == pytest.approx(1 / (min(visit, 10) ** 0.5 + C), rel=2e-3)
    assert novelty(at([-50.0])).reward.item() > 5 * novelty(at([0.0])).reward.item()


def reference(walk, k=10, epsilon=1e-4, cluster=0.008):
    """The bonuses of one environment's walk (T E), written out."""
    memory, sizes, bonuses = [], [], []
    for place in walk:
        nearest = np.sort([((place - other) ** 2).sum() for other in memory])[:k]
        sizes.extend(nearest)
        mean = np.mean(sizes) if sizes else 1.0
        kernel = epsilon / (np.maximum(nearest / mean - cluster, 0) + epsilon)
        bonuses.append(1 / (np.sqrt(kernel.sum()) + C) if memory else 0.0)
        memory.append(place)
    return bonuses


def test_it_is_the_formula():
    walk = np.random.default_rng(0).normal(size=(60, 3)).cumsum(0).round(1)
    novelty = EpisodicNovelty(FirstSlot())
    for place, expected in zip(walk, reference(walk), strict=True):
        assert novelty(at(place[None])).reward.item() == pytest.approx(expected, rel=1e-4)
        novelty.observe(at(place[None]))


def test_environments_have_memories_of_their_own_and_are_reset_one_by_one():
    novelty = EpisodicNovelty(FirstSlot())
    for places in ([0.0, 5.0, 9.0], [0.0, 7.0, 9.0]):
        novelty.observe(at(places))
    alike = novelty(at([0.0, 9.0, 9.0])).reward
    assert alike[0] == alike[2] == pytest.approx(1 / (2**0.5 + C), rel=1e-3)  # twice there, each
    assert alike[1] > 5 * alike[0]  # the second was never at 9
    novelty.reset(torch.tensor([True, False, False]))
    after = novelty(at([0.0, 9.0, 9.0])).reward
    assert after[0] == 0.0
    assert torch.equal(after[1:], alike[1:])
    novelty.observe(at([4.0, 9.0, 9.0]))
    assert novelty(at([4.0, 9.0, 9.0])).reward[0].item() == pytest.approx(1 / (1 + C), rel=1e-3)
    with pytest.raises(ValueError, match="remembers 3 environments, got 2"):
        novelty(at([0.0, 1.0]))
    novelty.reset()
    assert (novelty(at([0.0, 1.0])).reward == 0).all()


def test_the_oldest_is_forgotten_where_the_memory_is_full():
    novelty = EpisodicNovelty(FirstSlot(), capacity=3)
    for place in (0.0, 10.0, 20.0):
        novelty.observe(at([place]))
    assert novelty(at([0.0])).reward.item() == pytest.approx(1.0, rel=0.02)
    novelty.observe(at([30.0]))
    assert novelty(at([0.0])).reward.item() > 10


def test_no_more_places_are_searched_than_the_longest_running_episode_has(monkeypatch):
    novelty, searched, distances = EpisodicNovelty(FirstSlot()), [], torch.cdist

    def counted(one, other, **options):
        searched.append(other.shape[1])
        return distances(one, other, **options)

    monkeypatch.setattr(torch, "cdist", counted)
    for step in range(40):
        novelty.observe(at([float(step), 0.0]))
        if step % 5 == 4:
            novelty.reset(torch.tensor([True, step % 10 == 9]))
    assert max(searched) == 9


def test_a_state_without_slots_is_not_remembered():
    novelty = EpisodicNovelty(FirstSlot())
    for _ in range(3):
        novelty.observe(at([1.0, 1.0]))
    blank = SlotTransition(torch.zeros(2, 1, 1), torch.tensor([[True], [False]]))
    novelty.observe(blank)
    reward = novelty(at([0.0, 0.0])).reward
    assert reward[0].item() == pytest.approx(1.0, rel=0.02)
    assert reward[1] > 10


def seen():
    """A novelty that has seen 16 environments for a while."""
    novelty = EpisodicNovelty(SetNetwork(8, 16, 8))
    for seed in range(1, 15):
        novelty.observe(random_transitions(8, seed=seed))
    return novelty.eval()


@pytest.mark.parametrize("check", [check_attribution, check_empty, check_order, check_padding, check_repeatable])
def test_the_contract_is_kept_with_a_memory(check):
    check(seen(), 8)


def test_the_scale_of_distances_survives_saving():
    novelty = seen()
    again = EpisodicNovelty(SetNetwork(8, 16, 8))
    again.load_state_dict(load(save(novelty.state_dict())))
    assert again.distances.mean == novelty.distances.mean > 0


@pytest.mark.parametrize("bad", [{"neighbours": 0}, {"capacity": 0}, {"epsilon": 0.0}, {"c": 0.0}, {"cluster": -1.0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match="must be positive and cluster not negative"):
        EpisodicNovelty(FirstSlot(), **bad)

"""A scene minus the scene without an object is that object."""

import pytest
import torch
from torch import nn

from rl_probes.rewards.arithmetic import ObjectArithmetic, removed_slots
from rl_probes.rewards.transition import SlotTransition

SCENES, SLOTS, DIM = 100, 6, 8


def embedding():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, 32), nn.ReLU())


def removals(noise=0.0):
    """100 scenes from which one object is taken; those that stay come in another order. Also which, and it."""
    scene, gone = torch.randn(SCENES, SLOTS, DIM), torch.randint(SLOTS, (SCENES,))
    order = torch.rand(SCENES, SLOTS).argsort(1)
    after = scene.gather(1, order[..., None].expand_as(scene))
    after = after + noise * torch.randn_like(after)
    thing = scene[torch.arange(SCENES), gone]
    transition = SlotTransition(
        scene, next_slots=after, next_valid=order != gone[:, None], goal_slots=thing[:, None].clone()
    )
    return transition, gone, thing


def test_the_difference_is_the_embedding_of_the_object():
    phi = embedding()
    transition, _, thing = removals()
    output = ObjectArithmetic(phi)(transition)
    torch.testing.assert_close(output.extras["removed"], phi(thing), rtol=0, atol=1e-6)
    torch.testing.assert_close(output.reward, torch.ones(SCENES))


def test_the_wanted_object_pays_more_than_another():
    phi = embedding()
    transition, _, _ = removals(noise=0.01)
    wanted = ObjectArithmetic(phi)(transition).reward
    transition.goal_slots = transition.goal_slots.roll(1, 0)
    other = ObjectArithmetic(phi)(transition).reward
    assert (wanted > 0.9).float().mean() > 0.9
    assert wanted.mean() > other.mean() + 0.2


def test_nothing_taken_pays_nothing_in_whatever_order():
    scene = torch.randn(SCENES, SLOTS, DIM)
    same = SlotTransition(scene, next_slots=scene.flip(1), goal_slots=torch.randn(SCENES, 1, DIM))
    assert (ObjectArithmetic(embedding())(same).reward == 0).all()


def test_the_removed_slot_is_the_one_left_alone():
    for noise in (0.0, 0.05):
        transition, gone, _ = removals(noise)
        found = removed_slots(transition)
        assert (found.sum(1) == 1).all()
        assert torch.equal(found.int().argmax(1), gone)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="tolerance must be positive"):
        ObjectArithmetic(embedding(), 0.0)
    with pytest.raises(ValueError, match="needs next_slots"):
        removed_slots(SlotTransition(torch.zeros(1, 1, 1)))

"""Curiosity that noise does not feed: what chance decided is told in hindsight, what was predictable is not."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.hindsight_curiosity import HindsightCuriosity, invariance
from rl_probes.rewards.transition import SlotTransition

FASTER = partial(torch.optim.Adam, lr=3e-3)


def world(count, generator, noise, unseen=False):
    """Object 0 goes left or right as the action says, from the left half or the unseen right one; object 1 flickers."""
    slots = torch.zeros(count, 2, 4)
    slots[:, [0, 1], [0, 1]] = 1.0
    slots[:, 0, 2] = torch.rand(count, generator=generator) - (0 if unseen else 1)
    actions = torch.randint(2, (count,), generator=generator)
    following = slots.clone()
    following[:, 0, 2] += actions - 0.5
    slots[:, 1, 3] = noise * torch.randn(count, generator=generator)
    following[:, 1, 3] = noise * torch.randn(count, generator=generator)
    return SlotTransition(slots, next_slots=following.flip(1), actions=actions)


def trained(noise, weight=1.0, steps=500, seed=0):
    """A curiosity at home in the world, and the mean leak of its last steps."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    curiosity = HindsightCuriosity(4, 2, weight, width=32, outputs=8, hindsight=8, noise=8, optimizer=FASTER)
    leaks = [curiosity.observe(world(64, generator, noise))["hindsight_leak"] for _ in range(steps)]
    return curiosity.eval(), float(np.mean(leaks[-50:]))


@torch.no_grad()
def floor(curiosity, noise):
    """The error of the best prediction of g(s') from s and a alone: its variance over what the flicker may become."""
    generator = torch.Generator().manual_seed(1)
    variances = []
    for _ in range(32):
        one = world(1, generator, noise)
        following = one.next_slots.repeat(256, 1, 1)
        following[:, 0, 3] = noise * torch.randn(256, generator=generator)
        valid = torch.ones(256, 2, dtype=torch.bool)
        target = curiosity.target_moments.standardise(curiosity._target(following, valid))
        variances.append(target.var(0).mean())
    return torch.stack(variances).mean().item()


@torch.no_grad()
def test_noise_is_not_paid_for_and_novelty_is():
    curiosity, _ = trained(noise=1.0)
    generator = torch.Generator().manual_seed(2)
    seen = curiosity(world(256, generator, 1.0)).reward.mean().item()
    unseen = curiosity(world(256, generator, 1.0, unseen=True)).reward.mean().item()
    assert seen < 0.35 * floor(curiosity, 1.0)  # which no predictor without hindsight can go below
    assert unseen > 3 * seen


def test_the_critic_keeps_what_was_predictable_out_of_hindsight():
    """Nothing is left to chance here, so hindsight has nothing to tell; unopposed, it tells everything."""
    assert trained(noise=0.0, weight=0.0, steps=200)[1] > 1.5
    curiosity, leak = trained(noise=0.0)
    assert leak < 0.4
    with torch.no_grad():  # and yet the world is predicted
        assert curiosity(world(256, torch.Generator().manual_seed(2), 0.0)).reward.mean() < 0.2


def test_invariance_by_hand():
    assert invariance(torch.full((5, 5), 3.0)).item() == pytest.approx(0.0, abs=1e-6)
    assert invariance(50 * torch.eye(8)).item() == pytest.approx(np.log(8), abs=1e-6)
    scores = torch.randn(6, 6, dtype=torch.float64)
    expected = np.log(np.exp(scores.numpy()).diagonal() / np.exp(scores.numpy()).mean(1)).mean()
    assert invariance(scores).item() == pytest.approx(expected)


def test_only_f_g_and_the_critic_learn_and_the_bonus_is_the_same_without_other_rows():
    given = random_transitions(4)
    curiosity = HindsightCuriosity(4, 4, width=16)
    before = {name: value.clone() for name, value in curiosity.named_parameters()}
    with torch.no_grad():  # as where rewards are handed to a learner
        figures = curiosity.observe(given)
    assert figures["hindsight_error"] > 0
    for name, value in curiosity.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("target."), name
    whole = curiosity(given).reward
    parts = {name: getattr(given, name)[:3] for name in ("slots", "valid", "next_slots", "next_valid", "actions")}
    torch.testing.assert_close(curiosity(SlotTransition(**parts)).reward, whole[:3], rtol=1e-5, atol=1e-6)
    blank = SlotTransition(**{**vars(given), "next_valid": torch.zeros_like(given.next_valid)})
    kept = {name: value.clone() for name, value in curiosity.state_dict().items()}
    assert curiosity.observe(blank) == {}
    assert all(torch.equal(value, kept[name]) for name, value in curiosity.state_dict().items())


def test_it_survives_saving():
    given = random_transitions(4)
    curiosity = HindsightCuriosity(4, 4)
    curiosity.observe(given)
    again = HindsightCuriosity(4, 4)
    again.load_state_dict(load(save(curiosity.state_dict())))
    assert torch.equal(again(given).reward, curiosity(given).reward)


def test_actions_may_be_continuous():
    given = random_transitions(4)
    curiosity = HindsightCuriosity(4, 4)
    as_vectors = torch.nn.functional.one_hot(given.actions, 4).double()
    found = curiosity(SlotTransition(**{**vars(given), "actions": as_vectors})).reward
    assert torch.equal(found, curiosity(given).reward)


@pytest.mark.parametrize(
    ("actions", "sentence"),
    [
        (torch.full((16,), 4), r"lie in 0\.\.3"),
        (torch.zeros(16, 3), r"\(B, 4\), got torch.float32 \(16, 3\)"),
        (torch.zeros(16), "whole numbers"),
    ],
)
def test_other_actions_are_named(actions, sentence):
    given = random_transitions(4)
    with pytest.raises(ValueError, match=sentence):
        HindsightCuriosity(4, 4)(SlotTransition(**{**vars(given), "actions": actions}))


@pytest.mark.parametrize("bad", [{"weight": -1.0}, {"noise": 0}, {"clip": 0.0}, {"num_actions": 0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match="sizes and clip must be positive"):
        HindsightCuriosity(**{"dim": 4, "num_actions": 4, **bad})

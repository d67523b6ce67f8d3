"""People who want opposite things have one reward each, inferred from a few of their labels."""

import pytest
import torch

from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.latent_preferences import LatentPreferenceReward
from rl_probes.rewards.preference_reward import PreferenceReward
from rl_probes.rewards.preferences import fragment_return, synthetic_labels
from rl_probes.rewards.transition import SlotTransition


def fragments(count, generator, length=4):
    """Two objects in random order, each somewhere; half of the people want object 0 high, the others low."""
    slots = torch.zeros(count, length, 2, 3)
    slots[..., [0, 1], [0, 1]] = 1.0
    slots[..., 2] = torch.rand(count, length, 2, generator=generator) * 2 - 1
    height = slots[:, :, 0, 2].clone()
    order = torch.rand(slots.shape[:3], generator=generator).argsort(2)
    return slots.gather(2, order[..., None].expand_as(slots)), height


def pairs(count, generator):
    """Fragments (n T K D), masks, and by how much the first is higher (n)."""
    (first, one), (second, two) = fragments(count, generator), fragments(count, generator)
    valid = torch.ones(first.shape[:3], dtype=torch.bool)
    return (first, valid, second, valid), fragment_return(one) - fragment_return(two)


@pytest.fixture(scope="module")
def head():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    head = LatentPreferenceReward(3, latent=2, width=32)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for step in range(600):
        given, higher = pairs(16, generator)
        optimizer.zero_grad()
        head.loss(*given, synthetic_labels(higher if step % 2 else -higher)).backward()
        optimizer.step()
    return head.eval()


def agreement(head, higher, given):
    difference = head.differences(head.person[None], *given)[0]
    return (difference.sign() == higher.sign()).float().mean().item()


def test_a_few_labels_tell_whose_reward_it_is(head):
    """With eight labelled pairs of each, where a single reward for all can only be right half of the time."""
    generator = torch.Generator().manual_seed(1)
    test, higher = pairs(500, generator)
    for sign in (1, -1):
        shown, height = pairs(8, generator)
        head.infer(*shown, synthetic_labels(sign * height))
        assert agreement(head, sign * higher, test) > 0.9
    single = PreferenceReward(3, members=1, width=32)
    optimizer = torch.optim.Adam(single.parameters(), 3e-3)
    for step in range(200):
        given, height = pairs(16, generator)
        optimizer.zero_grad()
        single.loss(single.differences(*given), synthetic_labels(height if step % 2 else -height)).backward()
        optimizer.step()
    right = [(single.differences(*test)[0].sign() == sign * higher.sign()).float().mean().item() for sign in (1, -1)]
    assert min(right) < 0.6


def test_questions_go_where_people_differ(head):
    """Pairs that differ in object 0 split the people; those that differ in object 1 alone do not."""
    generator = torch.Generator().manual_seed(2)
    slots, _ = fragments(40, generator)
    first, second = slots.clone(), slots.clone()
    object_0 = slots[..., 0] == 1
    first[:20, ..., 2] = torch.where(object_0[:20], 1.0, first[:20, ..., 2])
    second[:20, ..., 2] = torch.where(object_0[:20], -1.0, second[:20, ..., 2])
    second[20:, ..., 2] = torch.where(object_0[20:], second[20:, ..., 2], -first[20:, ..., 2])
    valid = torch.ones(first.shape[:3], dtype=torch.bool)
    assert (head.ask(first, valid, second, valid, 20) < 20).float().mean() > 0.9


def test_pairs_may_be_swapped_and_shuffled():
    given, higher = pairs(12, torch.Generator().manual_seed(3))
    label = synthetic_labels(higher)
    head = LatentPreferenceReward(3)
    expected = head.encode(*given, label)
    order = torch.randperm(12)
    shuffled = head.encode(*(part[order] for part in given), label[order])
    swapped = head.encode(*given[2:], *given[:2], 1 - label)
    for found in (shuffled, swapped):
        for one, two in zip(found, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


def test_the_loss_is_the_bound():
    """With a posterior of no width, cross-entropy at its mean plus beta times the closed form of the divergence."""
    given, higher = pairs(12, torch.Generator().manual_seed(4))
    head, label = LatentPreferenceReward(3, latent=2), synthetic_labels(higher)
    with torch.no_grad():
        head.posterior.weight.zero_()
        head.posterior.bias.copy_(torch.tensor([1.0, -2.0, -40.0, -40.0]))
    difference = head.differences(torch.tensor([[1.0, -2.0]]), *given)[0]
    fit = torch.nn.functional.binary_cross_entropy_with_logits(difference, label)
    divergence = 0.5 * (1 + 4 - 2 + 2 * 40)
    torch.testing.assert_close(head.loss(*given, label, beta=0.1), fit + 0.1 * divergence, rtol=1e-5, atol=1e-5)


def test_differences_are_sums_of_predicted_rewards():
    given, _ = pairs(5, torch.Generator().manual_seed(5))
    head = LatentPreferenceReward(3)
    head.person.normal_()
    rewards = [head(SlotTransition(given[i].flatten(0, 1))).reward.view(5, 4).sum(1) for i in (0, 2)]
    people = torch.stack([head.person, torch.zeros(8)])
    torch.testing.assert_close(head.differences(people, *given)[0], rewards[0] - rewards[1])


def test_the_person_is_saved(head, tmp_path):
    head.person.copy_(torch.tensor([0.5, -1.0]))
    save_head(head, tmp_path)
    given = SlotTransition(torch.randn(6, 2, 3))
    assert torch.equal(load_head(LatentPreferenceReward, tmp_path)(given).reward, head(given).reward)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one dimension"):
        LatentPreferenceReward(3, latent=0)
    given, higher = pairs(3, torch.Generator().manual_seed(6))
    head = LatentPreferenceReward(3)
    with pytest.raises(ValueError, match="at least one labelled pair"):
        head.infer(*(part[:0] for part in given), higher[:0])
    with pytest.raises(ValueError, match="must be alike"):
        head.differences(torch.zeros(1, 8), given[0], given[1], given[2][:, :2], given[3][:, :2])

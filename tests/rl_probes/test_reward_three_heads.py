"""Which of two states is ahead, how far one is, whether it is done."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from rl_probes.distances import pearson_distance
from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.three_heads import ThreeHeads
from rl_probes.rewards.transition import SlotTransition


def states(count, generator):
    """Object 0 of three at x, in any order; progress is x, and done is x > 0.8."""
    slots = torch.zeros(count, 3, 4)
    slots[:, [0, 1, 2], [0, 1, 2]] = 1.0
    slots[..., 3] = torch.rand(count, 3, generator=generator)
    progress = slots[:, 0, 3].clone()
    order = torch.rand(count, 3, generator=generator).argsort(1)
    return slots.gather(1, order[..., None].expand_as(slots)), progress


def pairs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    (first, before), (second, after) = states(count, generator), states(count, generator)
    second[::5], after[::5] = first[::5].flip(1), before[::5]  # the same state twice
    return SlotTransition(first, next_slots=second), (after - before).sign().long(), after


def test_swapping_the_states_flips_the_contrast():
    given = random_transitions(4)
    head = ThreeHeads(4)
    forwards = head(given).extras["contrast"]
    swapped = SlotTransition(given.next_slots, given.next_valid, given.slots, given.valid)
    torch.testing.assert_close(forwards, -head(swapped).extras["contrast"], rtol=0, atol=1e-6)
    still = head(SlotTransition(given.slots, given.valid, given.slots.flip(1), given.valid.flip(1)))
    torch.testing.assert_close(still.extras["contrast"], torch.zeros(16), rtol=0, atol=1e-6)


def test_the_reward_is_the_mean_of_the_three():
    given = random_transitions(4)
    output = ThreeHeads(4)(given)
    parts = [(output.extras["contrast"] + 1) / 2, output.progress, output.success_logit.sigmoid()]
    torch.testing.assert_close(output.reward, sum(parts) / 3)
    lost = SlotTransition(given.slots, given.valid, given.next_slots, torch.zeros_like(given.next_valid))
    assert (ThreeHeads(4)(lost).reward == 0).all()


def test_the_three_are_learnt():
    transition, order, progress = pairs(4000, 0)
    head = ThreeHeads(4, width=32)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(500):
        rows = torch.randint(len(order), (128,))
        batch = SlotTransition(transition.slots[rows], next_slots=transition.next_slots[rows])
        optimizer.zero_grad()
        head.loss(batch, order[rows], progress[rows], progress[rows] > 0.8).backward()
        optimizer.step()
    transition, order, progress = pairs(1000, 1)
    with torch.no_grad():
        output = head(transition)
    moved = order != 0
    assert (output.extras["contrast"].sign().long() == order)[moved].float().mean() > 0.93
    assert output.extras["contrast"][~moved].abs().max() < 1e-5
    assert pearson_distance(output.progress.numpy(), progress.numpy()) < 0.1
    assert roc_auc_score((progress > 0.8).numpy(), output.success_logit.numpy()) > 0.97


@pytest.mark.parametrize(
    ("order", "progress", "sentence"),
    [
        (torch.tensor([2]), torch.tensor([0.5]), "-1, 0 and 1"),
        (torch.tensor([0.5]), torch.tensor([0.5]), "-1, 0 and 1"),
        (torch.tensor([1]), torch.tensor([1.5]), r"in \[0, 1\]"),
        (torch.tensor([1]), torch.tensor([torch.nan]), r"in \[0, 1\]"),
    ],
)
def test_bad_labels_are_named(order, progress, sentence):
    given = SlotTransition(torch.zeros(1, 2, 4), next_slots=torch.zeros(1, 2, 4))
    with pytest.raises(ValueError, match=sentence):
        ThreeHeads(4).loss(given, order, progress, torch.tensor([False]))

"""Hops of progress: coding, fusion, the pair head, and shaping by what it says."""

import pytest
import torch

from rl_probes.distances import pearson_distance
from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.hop_reward import HopReward, HopShaping
from rl_probes.rewards.hops import (
    backward_progress,
    decode_hop,
    encode_hop,
    forward_progress,
    fuse,
    fuse_consistent,
)
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.transition import SlotTransition


@pytest.mark.parametrize("monotone", [True, False])
def test_decoding_inverts_encoding(monotone):
    progress = torch.rand(50, 200, dtype=torch.float64)
    progress[:, 3] = 1.0
    progress[:, 10:12] = 0.0
    progress[:, 20:22] = 1.0
    if monotone:
        progress = progress.sort(1).values
    hops = encode_hop(progress[:, :-1], progress[:, 1:])
    assert ((hops >= -1) & (hops <= 1)).all()
    now = progress[:, 0]
    for t in range(hops.shape[1]):
        now = decode_hop(now, hops[:, t])
        torch.testing.assert_close(now, progress[:, t + 1], rtol=0, atol=1e-9)


def test_hops_by_hand_and_at_the_ends():
    first = torch.tensor([0.5, 0.5, 0.2, 0.0, 1.0, 0.0, 1.0])
    second = torch.tensor([0.75, 0.25, 0.2, 0.0, 1.0, 1.0, 0.0])
    torch.testing.assert_close(encode_hop(first, second), torch.tensor([0.5, -0.5, 0.0, 0.0, 0.0, 1.0, -1.0]))


def test_random_hops_never_leave_the_interval():
    progress = torch.rand(100)
    for _ in range(100):
        progress = decode_hop(progress, torch.rand(100) * 2 - 1)
        assert ((progress >= 0) & (progress <= 1)).all()


def test_fusion_of_true_hops_is_the_truth():
    previous, now = torch.rand(1000), torch.rand(1000)
    forward = forward_progress(encode_hop(torch.zeros(1000), now))
    backward = backward_progress(encode_hop(torch.ones(1000), now))
    hop = encode_hop(previous, now)
    torch.testing.assert_close(fuse(previous, hop, forward, backward), now, rtol=0, atol=1e-6)
    torch.testing.assert_close(fuse_consistent(previous, hop, forward, backward), now, rtol=0, atol=1e-5)


def test_disagreement_closes_the_gate():
    previous, hop = torch.tensor([0.4]), torch.tensor([0.5])
    agree = fuse_consistent(previous, hop, torch.tensor([0.6]), torch.tensor([0.6]))
    differ = fuse_consistent(previous, hop, torch.tensor([0.2]), torch.tensor([1.0]))
    assert agree.item() == pytest.approx(0.4 + 0.5 * (0.2 + 0.3))
    gate = torch.exp(torch.tensor(-((0.8 / 0.6) ** 2))).item()
    assert differ.item() == pytest.approx(0.4 + gate / 2 * (0.2 + 0.3), abs=1e-5)
    shut = fuse_consistent(previous, hop, torch.tensor([0.0]), torch.tensor([1.0]), sharpness=100.0)
    assert shut.item() == pytest.approx(0.4)


def walks(generator, episodes, steps, noise):
    """Object 0 approaches object 1 on most of few steps; progress is the distance covered. (E T+1 3 4), (E T+1)."""
    moves = (torch.rand(episodes, steps, generator=generator) < 0.15) * torch.randn(
        episodes, steps, generator=generator
    ).mul(0.15).add(0.05)
    progress = torch.zeros(episodes, steps + 1)
    for t in range(steps):
        progress[:, t + 1] = (progress[:, t] + moves[:, t]).clamp(0, 1)
    slots = torch.zeros(episodes, steps + 1, 3, 4)
    slots[..., [0, 1, 2], [0, 1, 2]] = 1.0
    target = torch.rand(episodes, 1, generator=generator).expand(-1, steps + 1)
    slots[:, :, 1, 3] = target
    slots[:, :, 0, 3] = target - 1 + progress
    slots[:, :, 2, 3] = torch.rand(episodes, steps + 1, generator=generator)
    slots = slots + noise * torch.randn(slots.shape, generator=generator)
    order = torch.rand(slots.shape[:3], generator=generator).argsort(2)
    return slots.gather(2, order[..., None].expand_as(slots)), progress


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_pair_head_beats_the_difference_of_potentials(seed):
    """On the reward of a step, with noise on every feature."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    slots, progress = walks(generator, 300, 20, 0.03)
    now, then = slots[:200, :-1].flatten(0, 1), slots[:200, 1:].flatten(0, 1)
    p, q = progress[:200, :-1].flatten(), progress[:200, 1:].flatten()
    potential, pair = DeepSetProgress(4, width=32), HopReward(4, width=32)
    changed = (p != q).nonzero().squeeze(1)
    for head, learning_rate in ((potential, 3e-3), (pair, 3e-3)):
        optimizer = torch.optim.Adam(head.parameters(), learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=600)
        for _ in range(600):
            rows = torch.randint(len(p), (128,))
            if head is pair:  # steps that change something are few: half of the batch
                rows[:64] = changed[torch.randint(len(changed), (64,))]
            target = encode_hop(p[rows], q[rows]) if head is pair else p[rows]
            optimizer.zero_grad()
            found = head(SlotTransition(now[rows], next_slots=then[rows])).reward
            (found - target).square().mean().backward()
            optimizer.step()
            schedule.step()
    first, second = slots[200:, :-1].flatten(0, 1), slots[200:, 1:].flatten(0, 1)
    truth = (progress[200:, 1:] - progress[200:, :-1]).flatten().numpy()
    with torch.no_grad():
        before = potential(SlotTransition(first)).reward
        difference = potential(SlotTransition(second)).reward - before
        hop = pair(SlotTransition(first, next_slots=second)).reward
        step = decode_hop(before, hop) - before
    assert pearson_distance(step.numpy(), truth) < pearson_distance(difference.numpy(), truth)


class TrueHop(HopReward):
    """Reads progress off the first feature."""

    def hop(self, slots, valid, next_slots, next_valid):
        return encode_hop(slots[:, 0, 0], next_slots[:, 0, 0])


def episode(progress, terminates):
    """(E T+1) -> T transitions of E environments; the goal has progress one."""
    slots = progress[..., None, None].expand(-1, -1, 2, 4)
    for t in range(progress.shape[1] - 1):
        last = t == progress.shape[1] - 2
        yield SlotTransition(
            slots[:, t],
            next_slots=slots[:, t + 1],
            goal_slots=torch.ones(len(progress), 1, 4),
            terminated=torch.full((len(progress),), last and terminates),
        )


@pytest.mark.parametrize("sharpness", [None, 2.0])
@pytest.mark.parametrize("terminates", [True, False])
def test_shaping_by_hops_telescopes(sharpness, terminates):
    torch.manual_seed(0)
    progress = torch.rand(3, 21)
    progress[:, 0] = 0.0
    progress[:, 7] = 1.0
    predictor = HopShaping(TrueHop(4), 0.9, sharpness=sharpness)
    total, gold = torch.zeros(3), torch.zeros(3)
    for t, transition in enumerate(episode(progress, terminates)):
        output = predictor(transition)
        torch.testing.assert_close(output.progress, progress[:, t + 1], rtol=0, atol=1e-4)
        total += 0.9**t * output.reward
        gold += 0.9**t * (output.progress >= 0.95)
        predictor.observe(transition)
    expected = gold if terminates else gold + 0.9**20 * progress[:, -1]
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-4)


def test_environments_are_reset_one_by_one():
    torch.manual_seed(0)
    head = HopReward(4)
    predictor = HopShaping(head, 0.9)
    given = [random_transitions(4, batch=3, seed=seed) for seed in range(3)]
    fresh = predictor(given[2]).reward
    for transition in given[:2]:
        predictor.observe(transition)
    remembered = predictor(given[2]).reward
    predictor.reset(torch.tensor([False, True, False]))
    found = predictor(given[2]).reward
    assert torch.equal(found == fresh, torch.tensor([False, True, False]))
    assert torch.equal(found == remembered, torch.tensor([True, False, True]))
    with pytest.raises(ValueError, match="remembers 3 environments, got 5"):
        predictor(random_transitions(4, batch=5))
    predictor.reset()
    assert torch.equal(predictor(given[2]).reward, fresh)


def test_attribution_keeps_the_memory_of_its_environment():
    torch.manual_seed(0)
    predictor = HopShaping(HopReward(4), 0.9)
    predictor.observe(random_transitions(4, batch=3, seed=1))
    given = random_transitions(4, batch=3, seed=2)
    output = predictor(given, attribute=True)
    valid = given.valid.clone()
    valid[:, 0] = False
    without = predictor(SlotTransition(**{**vars(given), "valid": valid})).reward
    expected = torch.where(given.valid[:, 0], output.reward - without, 0.0)
    torch.testing.assert_close(output.attribution[:, 0], expected)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="gamma and gold_at"):
        HopShaping(HopReward(4), 0.9, gold_at=1.5)

"""What holds for every trained head: it is saved whole, made alike by a seed, stands halves, and knows its encoder."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots
from rl_probes.distances import pearson_distance
from rl_probes.rewards.aligned_blend import AlignedBlend
from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.contract import random_transitions
from rl_probes.rewards.episodic_novelty import EpisodicNovelty
from rl_probes.rewards.function import as_reward_fn
from rl_probes.rewards.hindsight_curiosity import HindsightCuriosity
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.latent_preferences import LatentPreferenceReward
from rl_probes.rewards.memory import remember, remembered
from rl_probes.rewards.novelty import RandomDistillation, SetNetwork
from rl_probes.rewards.perceptual_reward import PerceptualSteps
from rl_probes.rewards.preference_reward import PreferenceReward
from rl_probes.rewards.set_progress import DeepSetProgress, FlattenedProgress, PooledProgress, TransformerProgress
from rl_probes.rewards.stage_progress import StageProgress
from rl_probes.rewards.three_heads import ThreeHeads
from rl_probes.rewards.transition import SlotTransition

DIM = 8
SIZES = {
    DeepSetProgress: {},
    TransformerProgress: {"width": 32},
    FlattenedProgress: {"num_slots": 6},
    PooledProgress: {},
    StageProgress: {"num_stages": 3},
    HopReward: {},
    ThreeHeads: {},
    PreferenceReward: {},
    LatentPreferenceReward: {},
    PerceptualSteps: {"num_steps": 3},
}
LEARNERS = {
    "distillation": lambda: RandomDistillation(DIM, SetNetwork(DIM), SetNetwork(DIM)),
    "hindsight": lambda: HindsightCuriosity(DIM, 4),
    "episodes": lambda: EpisodicNovelty(SetNetwork(DIM), capacity=6),
}
each_head = pytest.mark.parametrize("kind", SIZES, ids=lambda kind: kind.__name__)


def made(kind, seed=0):
    """A head as it is after fitting: no buffer is at its initial value."""
    torch.manual_seed(seed)
    head = kind(DIM, **SIZES[kind])
    if kind is PerceptualSteps:
        head.fit([(torch.randn(20, 5, DIM), torch.rand(20, 5) < 0.8) for _ in range(3)])
    head.mean.normal_()
    head.std.uniform_(0.5, 2.0)
    head.encoder_fingerprint = "ab" * 32
    return head.eval()


@each_head
def test_a_saved_head_answers_the_same(kind, tmp_path):
    head = made(kind)
    save_head(head, tmp_path)
    again = load_head(kind, tmp_path)
    assert again.encoder_fingerprint == head.encoder_fingerprint
    given = random_transitions(DIM)
    one, two = head(given, attribute=True), again(given, attribute=True)
    assert torch.equal(one.reward, two.reward)
    assert torch.equal(one.attribution, two.attribution)


@each_head
def test_a_seed_makes_a_head(kind):
    given = random_transitions(DIM)
    first, again, other = (made(kind, seed)(given).reward for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@each_head
def test_slots_stored_as_halves_change_little(kind):
    given = random_transitions(DIM, batch=256)
    halves = SlotTransition(
        given.slots.half(), given.valid, given.next_slots.half(), given.next_valid, given.goal_slots, given.goal_valid
    )
    head = made(kind)
    assert (head(given).reward - head(halves).reward).abs().max() < 1e-2
    assert not torch.equal(head(given).reward, head(halves).reward)


class NormalisedCNN(ObjectEncoder):
    """A small encoder with parameters and with statistics that a training mode would move."""

    num_slots = 4
    dim = DIM

    def __init__(self):
        super().__init__()
        layers = nn.Sequential(nn.Conv2d(3, DIM, 3, stride=2), nn.BatchNorm2d(DIM), nn.AdaptiveAvgPool2d(2))
        self.layers = layers.eval().requires_grad_(False)

    def encode(self, batch):
        return Slots.of(self.layers(batch.images).flatten(2).transpose(1, 2))


@pytest.mark.parametrize("kind", [kind for kind in SIZES if kind is not FlattenedProgress], ids=lambda k: k.__name__)
def test_a_head_refuses_another_encoder(kind):
    torch.manual_seed(0)
    encoder, other = NormalisedCNN(), NormalisedCNN()
    assert encoder.fingerprint != other.fingerprint
    head = made(kind)
    head.encoder_fingerprint = encoder.fingerprint
    goal = Slots.of(torch.zeros(1, 2, DIM))
    images = torch.rand(2, 3, 3, 16, 16)
    paid = as_reward_fn(head, encoder, goal)(Batch(images[0]), Batch(images[1]))
    assert np.isfinite(paid).all()
    for predictor in (head, AlignedBlend([head], [1.0, 1.0])):
        with pytest.raises(ValueError, match="fit a head of its own for every encoder"):
            as_reward_fn(predictor, other, goal)


def test_what_learns_online_leaves_the_encoder_alone():
    torch.manual_seed(0)
    encoder = NormalisedCNN()
    before, fingerprint = copy.deepcopy(encoder.state_dict()), encoder.fingerprint
    frames = torch.rand(4, 2, 5, 3, 16, 16)
    for name, learner in LEARNERS.items():
        function = as_reward_fn(learner(), encoder)
        paid = [function(Batch(now), Batch(then), np.arange(5) % 4) for now, then in frames]
        again = function(Batch(frames[0, 0]), Batch(frames[0, 1]), np.arange(5) % 4)
        assert not np.array_equal(paid[0], again), name  # it has learnt
    after = encoder.state_dict()
    assert before.keys() == after.keys()
    assert "layers.1.running_mean" in before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert encoder.fingerprint == fingerprint
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())


def test_a_transformer_learns_a_relation():
    """The nearness of two of four objects, which no sum over single objects holds."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.zeros(3000, 4, 6)
    slots[:, range(4), range(4)] = 1.0
    slots[..., 4:] = torch.rand(3000, 4, 2, generator=generator)
    progress = 1 - (slots[:, 0, 4:] - slots[:, 1, 4:]).norm(dim=1) / 2**0.5
    order = torch.rand(3000, 4, generator=generator).argsort(1)
    slots = slots.gather(1, order[..., None].expand_as(slots))
    distance = {}
    for name, head in {"transformer": TransformerProgress(6, 32, 4, 2), "pooled": PooledProgress(6, 32)}.items():
        optimizer = torch.optim.Adam(head.parameters(), 3e-3)
        for _ in range(250):
            rows = torch.randint(2500, (128,))
            optimizer.zero_grad()
            (head(SlotTransition(slots[rows])).reward - progress[rows]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            found = head(SlotTransition(slots[2500:])).reward
        distance[name] = pearson_distance(found.numpy(), progress[2500:].numpy())
    assert distance["transformer"] < 0.15
    assert distance["pooled"] > 0.5


def test_a_transformer_reads_any_number_of_slots_and_bad_sizes_are_named():
    head = made(TransformerProgress)
    slots = torch.randn(2, 30, DIM)
    assert head(SlotTransition(slots)).reward.shape == (2,)
    alone = head(SlotTransition(slots[:1])).reward
    torch.testing.assert_close(head(SlotTransition(slots)).reward[:1], alone, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="5 heads must share the width"):
        TransformerProgress(4, width=32, heads=5)


@pytest.mark.parametrize("name", LEARNERS)
def test_what_was_learnt_online_is_put_back_to_go_on_as_if_never_stopped(name):
    """With the state of the optimisers and the memory of episodes, of which a full one is overwritten. What was taken
    is a copy: neither who goes on from it nor who went on before changes it."""
    torch.manual_seed(0)
    learner, *others = (LEARNERS[name]() for _ in range(3))

    def go_on(predictor, seeds):
        torch.manual_seed(5)
        for seed in seeds:
            predictor.observe(random_transitions(DIM, seed=seed))

    go_on(learner, range(8))
    kept = remembered(learner)
    go_on(learner, range(8, 12))
    given = random_transitions(DIM, seed=20)
    for again in others:
        assert not torch.equal(again(given).reward, learner(given).reward)
        remember(again, kept)
        go_on(again, range(8, 12))
        assert torch.equal(again(given).reward, learner(given).reward)

"""Networks trained on frames: the published architectures, and agents like any other."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN as ReferenceNatureCNN

from ocl.shapes import Batch
from rl_probes.agent import Agent
from rl_probes.end_to_end import ImpalaCNN, NatureCNN, RawImage
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.observation import Observer, Standardisation
from rl_probes.ppo import PPOConfig, train

NETWORKS = [NatureCNN, ImpalaCNN]


def space(encoder: RawImage) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (1, encoder.dim + 1), np.float32)


def frames(count: int = 4) -> Batch:
    return SpriteWorld(ObjectGoal(), count).observe(frozenset({"images"}))


def test_the_observation_is_the_image():
    encoder, batch = RawImage(), frames()
    observer = Observer(encoder, Standardisation.identity(encoder.dim))
    network = NatureCNN(space(encoder))
    images = network.images(torch.from_numpy(observer(batch)))
    assert torch.equal((images * 255).round().byte(), batch.images)
    assert observer.requires == {"images"}


@torch.no_grad()
def test_nature_cnn_is_that_of_stable_baselines3():
    encoder = RawImage()
    own = NatureCNN(space(encoder))
    reference = ReferenceNatureCNN(spaces.Box(0, 255, (3, 64, 64), np.uint8))
    weights = list(reference.parameters())
    assert [p.shape for p in own.parameters()] == [p.shape for p in weights]
    for mine, theirs in zip(own.parameters(), weights, strict=True):
        mine.copy_(theirs)
    batch = frames()
    slots = encoder(batch)
    observations = torch.cat([slots.vectors, torch.ones(4, 1, 1)], dim=-1)
    torch.testing.assert_close(own(observations), reference(batch.images.float() / 255))


def test_impala_cnn_has_the_published_sizes():
    network = ImpalaCNN(space(RawImage()))
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 15  # three blocks of one and two times two
    blocks = ((3, 16), (16, 32), (32, 32))
    expected = sum(9 * a * b + b + 4 * (9 * b * b + b) for a, b in blocks) + 32 * 8 * 8 * 256 + 256
    assert sum(p.numel() for p in network.parameters()) == expected
    observations = torch.rand(2, 1, 3 * 64 * 64 + 1)
    assert network(observations).shape == (2, 256)
    unit = network.layers[2]  # a residual unit that adds nothing is the identity
    torch.nn.init.zeros_(unit.second.weight)
    torch.nn.init.zeros_(unit.second.bias)
    features = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(unit(features), features)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_agent_is_trained_end_to_end_continues_exactly_and_is_read_back(tmp_path, network):
    encoder = RawImage((48, 48))
    pooling = partial(network, image_size=(48, 48))
    config = PPOConfig(n_steps=8, batch_size=16, n_epochs=2)
    common = {"config": config, "standardisation": Standardisation.identity(encoder.dim), "snapshot_every": 1}

    def trained(folder: str, steps: int) -> Agent:
        world = SpriteWorld(ObjectGoal(), 4, 48, seed=1)
        return train(world, encoder, pooling, folder=tmp_path / folder, total_steps=steps, **common)

    whole = trained("whole", 96)
    trained("parts", 32)
    parts = trained("parts", 96)
    for (name, one), two in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(one, two), name
    first, later = (agent.policy.features_extractor.layers[0].weight for agent in (trained("short", 32), whole))
    assert not torch.equal(first, later), "the convolutions learn"

    batch = SpriteWorld(ObjectGoal(), 3, 48, seed=5).observe(frozenset({"images"}))
    loaded = Agent.load(tmp_path / "whole" / "agent.safetensors", encoder, pooling)
    assert np.array_equal(loaded.action_probabilities(batch), whole.action_probabilities(batch))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"reads one RawImage of \(64, 64\), got 1 slots of 6912"):
        ImpalaCNN(space(RawImage((48, 48))))
    with pytest.raises(ValueError, match="at least 36 pixels"):
        NatureCNN(space(RawImage((32, 32))), (32, 32))
    with pytest.raises(ValueError, match="at least"):
        RawImage((0, 64))

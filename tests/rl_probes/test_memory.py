"""Worlds that remember slots: stacks of frames, slots carried over, and everything that episodes promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import ocl
from ocl import checkpoints
from ocl.instantiate import instantiate
from ocl.representations import OracleObjects, RandomCNN, WithPositions
from ocl.shapes import images_as_float
from ocl.starting_weights import take_weights
from rl_probes import snapshot
from rl_probes.agent import Agent
from rl_probes.envs.memory import RememberedSlots, SlotMemory
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.evaluate import evaluate
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, train

OBJECTS = frozenset({"objects"})
IMAGES = frozenset({"images"})


def slots_of(world, indices=None):
    return world.observe(OBJECTS, indices).objects["slots"]


def oracle():
    return OracleObjects(5, {"position": 2}, {})


def test_a_stack_holds_the_last_frames_newest_first_and_begins_anew_with_the_episode():
    world, plain = SlotMemory(SpriteWorld("push", 3), oracle(), frames=3), SpriteWorld("push", 3)
    seeds = np.array([4, 5, 6])
    for one in (world, plain):
        one.reset(seeds=seeds)
    seen = [plain.observe(OBJECTS).objects["position"]] * 3
    generator = np.random.default_rng(0)
    for step in range(6):
        assert torch.equal(slots_of(world), torch.cat(seen[::-1][:3], dim=-1))
        if step == 3:
            for one in (world, plain):
                one.reset(np.array([1]), np.array([9]))
            fresh = plain.observe(OBJECTS).objects["position"][1]
            for frame in seen[-3:]:
                frame[1] = fresh
            assert torch.equal(slots_of(world, np.array([1]))[0], fresh.repeat(1, 3))
        actions = generator.integers(4, size=3)
        world.step(actions)
        plain.step(actions)
        seen.append(plain.observe(OBJECTS).objects["position"].clone())


def test_carried_slots_start_from_the_frame_before():
    encoder = ocl.load("sprites")
    world = SlotMemory(SpriteWorld("object goal", 4, seed=3), encoder, carry=True)
    plain = SlotMemory(SpriteWorld("object goal", 4, seed=3), encoder)
    previous = slots_of(world)
    assert torch.equal(previous, slots_of(plain))
    expected = encoder(world.observe(IMAGES)).vectors
    torch.testing.assert_close(previous, expected)
    for action in range(3):
        world.step(np.full(4, action))
        plain.step(np.full(4, action))
        carried = encoder.following(world.observe(IMAGES), previous).vectors
        torch.testing.assert_close(slots_of(world), carried)
        assert not torch.allclose(slots_of(world), slots_of(plain), atol=1e-3)
        previous = slots_of(world)
    world.reset(np.array([2]), np.array([1]))
    torch.testing.assert_close(slots_of(world)[2:3], encoder(world.observe(IMAGES, np.array([2]))).vectors)


def test_objects_keep_their_slots_when_slots_are_carried():
    """The slot whose mask holds most of a sprite is the same in the next frame, more often than without carrying."""
    encoder = ocl.load("sprites", decoder_masks=True)
    fields = frozenset({"images", "segmentation"})

    def holders(world, masks):
        labels = world.observe(fields).segmentation
        owners = torch.nn.functional.interpolate(masks, labels.shape[-2:]).argmax(dim=1)
        return torch.stack(
            [
                torch.stack([owners[i][labels[i] == m].bincount(minlength=8).argmax() for m in range(1, 6)])
                for i in range(len(labels))
            ]
        )

    kept = {}
    for carry in (False, True):
        world = SpriteWorld("object comparison", 16, seed=0)
        slots = encoder(world.observe(IMAGES))
        first = holders(world, slots.masks)
        for _ in range(3):
            world.step(np.full(16, 0))
            batch = world.observe(IMAGES)
            slots = encoder.following(batch, slots.vectors) if carry else encoder(batch)
        kept[carry] = (holders(world, slots.masks) == first).float().mean()
    assert kept[True] > 0.9
    assert kept[False] < 0.8


def test_new_episodes_are_those_that_the_world_draws():
    """With seeds of its own, a memory would make EnvPool open a pool for every episode."""
    plain, world = SpriteWorld("push", 3, seed=4), SlotMemory(SpriteWorld("push", 3, seed=4), oracle())
    for index in (0, 2):
        assert torch.equal(plain.observe(IMAGES).images, world.observe(IMAGES).images)
        plain.reset(np.array([index]))
        world.reset(np.array([index]))
    assert torch.equal(plain.observe(IMAGES).images, world.observe(IMAGES).images)


def test_a_memory_continues_exactly_from_its_state(tmp_path):
    def build(seed):
        return SlotMemory(SpriteWorld("push", 3, seed=seed), ocl.load("sprites"), frames=2, carry=True)

    world, other = build(0), build(1)
    world.step(np.array([0, 1, 2]))
    snapshot.save(tmp_path / "state", world.state())
    other.set_state(snapshot.load(tmp_path / "state"))
    for one in (world, other):
        one.step(np.array([3, 3, 3]))
        one.reset(np.array([0]))
    assert torch.equal(slots_of(world), slots_of(other))
    with pytest.raises(ValueError, match="expected"):
        SlotMemory(SpriteWorld("push", 3), oracle()).set_state(world.state())


@pytest.fixture
def clip_checkpoint(tmp_path):
    """The packaged weights as a model of clips, with a predictor that moves slots."""
    parts = checkpoints.read_config(ocl.checkpoint_at("sprites"))["model"]["init_args"]
    predictor = {"class_path": "ocl.slots.predictor.SlotPredictor", "init_args": {"dim": 64}}
    tree = {"class_path": "ocl.video.VideoModel", "init_args": {**parts, "predictor": predictor}}
    model = instantiate(tree)
    take_weights(model, "sprites")
    torch.nn.init.normal_(model.predictor.mlp[2].weight, std=0.1)
    return str(checkpoints.save(tree, model, tmp_path / "clips"))


def test_a_model_of_clips_follows_the_world_as_it_follows_a_clip(clip_checkpoint):
    world = SlotMemory(SpriteWorld("push", 3, seed=2), clip_checkpoint, carry=True)
    frames, seen = [], []
    for action in range(4):
        frames.append(world.observe(IMAGES).images)
        seen.append(slots_of(world))
        world.step(np.full(3, action))
    clips = images_as_float(torch.cat(frames)).unflatten(0, (4, 3)).transpose(0, 1)
    with torch.no_grad():
        expected = world.encoder.model(clips, noise=world.encoder.noise).slots.vectors
    torch.testing.assert_close(torch.stack(seen, dim=1), expected, rtol=1e-3, atol=1e-3)
    carried = SlotMemory(SpriteWorld("push", 3, seed=2), "sprites", carry=True)
    assert carried.provenance()["memory"] != world.provenance()["memory"]


def test_a_run_on_a_model_of_clips_continues_exactly(clip_checkpoint, tmp_path):
    def go(folder, steps):
        world = SlotMemory(SpriteWorld("object goal", 4, seed=1), clip_checkpoint, carry=True)
        encoder, pooling = RememberedSlots(7, 64), partial(DeepSetPooling, width=16)
        config = PPOConfig(n_steps=8, batch_size=32, n_epochs=1)
        return train(
            world, encoder, pooling, folder=tmp_path / folder, total_steps=steps, config=config, snapshot_every=1
        )

    whole = go("whole", 128)
    go("parts", 64)
    parts = go("parts", 128)
    for (name, one), two in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_agents_train_continue_and_are_evaluated_on_remembered_slots(tmp_path):
    def world(num_envs=4):
        return SlotMemory(SpriteWorld("object goal", num_envs, seed=1), oracle(), frames=2)

    encoder, pooling = RememberedSlots(5, 4), partial(DeepSetPooling, width=16)
    common = {"config": PPOConfig(n_steps=16, batch_size=32), "snapshot_every": 1}
    whole = train(world(), encoder, pooling, folder=tmp_path / "whole", total_steps=256, **common)
    train(world(), encoder, pooling, folder=tmp_path / "parts", total_steps=128, **common)
    parts = train(world(), encoder, pooling, folder=tmp_path / "parts", total_steps=256, **common)
    for (name, one), two in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(one, two), name
    agent = Agent.load(tmp_path / "whole" / "agent.safetensors", encoder, pooling)
    alone, together = (evaluate(agent, world(count), range(6)) for count in (1, 4))
    np.testing.assert_array_equal(alone.lengths, together.lengths)


def test_positions_are_centroids_of_masks():
    world = SpriteWorld("object goal", 6)
    encoder = WithPositions(RandomCNN((64, 64), 8, strides=(2, 2, 2)))
    slots = encoder(world.observe(IMAGES))
    assert slots.vectors.shape == (6, 64, 10)
    x, y = slots.vectors[0, :, 8].view(8, 8), slots.vectors[0, :, 9].view(8, 8)
    centres = (torch.arange(8) + 0.5) / 8
    torch.testing.assert_close(x, centres.expand(8, 8))
    torch.testing.assert_close(y, centres[:, None].expand(8, 8))
    with pytest.raises(ValueError, match="OracleObjects gives no masks"):
        WithPositions(oracle())(world.observe(OBJECTS))


def test_what_does_not_fit_is_refused():
    with pytest.raises(TypeError, match="OracleObjects cannot start from other slots"):
        SlotMemory(SpriteWorld("push"), oracle(), carry=True)
    with pytest.raises(ValueError, match="frames must be at least 1"):
        SlotMemory(SpriteWorld("push"), oracle(), frames=0)
    with pytest.raises(ValueError, match=r"needs slots \(5, 4\) of a SlotMemory, got none"):
        RememberedSlots(5, 4)(SpriteWorld("push").observe(OBJECTS))
    with pytest.raises(ValueError, match="at least 1"):
        RememberedSlots(0, 4)

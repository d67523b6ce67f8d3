"""Recorded frames are what the world showed, whatever was interrupted, and a head fitted on them can pay an agent."""

import inspect

import numpy as np
import pytest
import torch

from ocl.commands import parser_of
from ocl.data.sprites import COLORS, SHAPES
from ocl.representations import OracleObjects, RandomCNN
from ocl.shapes import Batch, Slots
from ocl.store import FeatureStore, ShardWriter
from rl_probes.collect import collect
from rl_probes.envs.sprite_world import SpriteWorld, scripted_actions
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.fit_rewards import fit_progress
from rl_probes.players import Scripted
from rl_probes.recording import Recording
from rl_probes.reward_report import fit as reward
from rl_probes.rewards.checkpoint import load_head
from rl_probes.rewards.function import as_reward_fn
from rl_probes.rewards.goal_similarity import Columns, SlotGoalSimilarity
from rl_probes.rewards.set_progress import DeepSetProgress
from rl_probes.rewards.shaping import PotentialShaping


@pytest.fixture
def world():
    return SpriteWorld(ObjectGoal(), num_envs=4, image_size=32, seed=9)


def oracle():
    return OracleObjects(5, {"position": 2, "scale": 1}, {"shape": len(SHAPES), "color": len(COLORS), "is_agent": 2})


def gather(world, folder, **changes):
    players = [Scripted(scripted_actions)]
    options = {"task": "object goal", "frames": 700, "players": players, "length": 60, "seed": 3, **changes}
    collect(world, folder, encoder=oracle(), **options)
    return Recording.load(folder)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def test_frames_are_those_that_the_world_shows(world, tmp_path):
    """Replay every episode from its seed and its recorded actions, one environment at a time."""
    recording = gather(world, tmp_path)
    assert len(recording) == 720  # three shards of 4 * 60
    names = np.unique(recording.episode)
    assert len(names) > 30
    alone = SpriteWorld(ObjectGoal(), num_envs=1, image_size=32)
    encoder = oracle()
    for name in names:
        frames = np.flatnonzero(recording.episode == name)
        assert frames[0] == name
        assert (np.diff(frames) == 1).all()
        assert recording.step[frames].tolist() == list(range(len(frames)))
        seed = np.random.SeedSequence([3, int(name)]).generate_state(1)[0] >> 1
        alone.reset(seeds=np.array([seed], np.int64))
        for frame in frames:
            if recording.step[frame] == 0:
                assert recording.action[frame] == -1
                assert recording.reward[frame] == 0
                assert not recording.terminated[frame] | recording.truncated[frame] | recording.success[frame]
            else:
                outcome = alone.step(recording.action[[frame]])
                assert recording.reward[frame] == outcome.reward[0]
                assert recording.terminated[frame] == outcome.terminated[0]
                assert recording.truncated[frame] == outcome.truncated[0]
                assert recording.success[frame] == outcome.info["success"][0]
            assert recording.progress[frame] == alone.progress()[0]
            slots = encoder(alone.observe(encoder.requires))
            np.testing.assert_array_equal(recording.vectors[frame], slots.vectors[0].half().numpy())
            np.testing.assert_array_equal(recording.valid[frame], slots.valid[0].numpy())
        ended = recording.terminated[frames] | recording.truncated[frames]
        assert not ended[:-1].any()
        cut = (frames[-1] + 1) % 60 == 0
        assert ended[-1] or cut


def test_an_interrupted_collection_continues_to_the_same_bytes(world, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    gather(world, whole)
    steps = 0

    class Interrupted(SpriteWorld):
        def step(self, actions):
            nonlocal steps
            steps += 1
            if steps == 130:
                raise KeyboardInterrupt
            return super().step(actions)

    with pytest.raises(KeyboardInterrupt):
        gather(Interrupted(ObjectGoal(), num_envs=4, image_size=32), broken)
    assert len(list(broken.glob("shard-*"))) == 2
    with pytest.raises(FileNotFoundError, match=r"index\.json"):
        Recording.load(broken)
    gather(world, broken)
    assert content(whole) == content(broken)
    shard = broken / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-7])
    gather(world, broken)
    assert content(whole) == content(broken)


@pytest.mark.parametrize("change", [{"task": "other"}, {"seed": 4}, {"epsilon": (0.0, 0.1)}, {"players": []}])
def test_a_folder_holds_one_origin(world, tmp_path, change):
    gather(world, tmp_path)
    with pytest.raises(ValueError, match="features of another origin"):
        gather(world, tmp_path, **change)


def test_the_expert_succeeds_more_often_than_chance(world, tmp_path):
    rate = {}
    for name, options in {
        "expert": {"epsilon": (0.0, 0.0)},
        "mixed": {},
        "random": {"players": []},
        "all random": {"epsilon": (1.0, 1.0)},
    }.items():
        recording = gather(world, tmp_path / name, frames=4000, length=1000, **options)
        rate[name] = recording.success[recording.finals()].mean()
    assert rate["expert"] > 0.9
    assert rate["random"] < 0.35  # one of four objects, found by chance
    assert rate["all random"] < 0.35
    assert rate["random"] < rate["mixed"] < rate["expert"]


def test_images_are_stored_on_request(world, tmp_path):
    encoder = RandomCNN((32, 32), dim=8)
    collect(world, tmp_path, "t", 1, encoder, length=20, fields=("images",))
    store = FeatureStore(tmp_path, expect_fingerprint=encoder.fingerprint)
    frames = store.read(range(80))
    assert frames["images"].shape == (80, 3, 32, 32)
    again = encoder(Batch(torch.from_numpy(frames["images"])))
    np.testing.assert_allclose(frames["vectors"], again.vectors.numpy(), atol=2e-3)


def test_nothing_of_the_encoder_changes(world, tmp_path):
    encoder = RandomCNN((32, 32), dim=8)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    collect(world, tmp_path, "t", 1000, encoder, length=50)
    recording = Recording.load(tmp_path)
    train, val, _ = recording.split(seed=0)
    fit_progress(train, val, epochs=1)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.children())


def test_bad_requests_are_named(world, tmp_path):
    class Blind(SpriteWorld):
        fields = frozenset({"images"})

    with pytest.raises(ValueError, match=r"needs \['objects'\], which Blind cannot show"):
        gather(Blind(ObjectGoal()), tmp_path)
    with pytest.raises(ValueError, match="frames and length"):
        gather(world, tmp_path, frames=0)
    with pytest.raises(ValueError, match="epsilon"):
        gather(world, tmp_path, epsilon=(0.5, 0.2))


@pytest.mark.parametrize("command", [collect, reward])
def test_a_command_line_can_set_every_parameter(command):
    """jsonargparse silently leaves out optional parameters whose type it cannot build."""
    found = {action.dest for action in parser_of(command)._actions}
    assert set(inspect.signature(command).parameters) <= found


def test_a_store_of_something_else_is_no_recording(tmp_path):
    writer = ShardWriter(tmp_path, {"fingerprint": "x"}, 4, 4)
    writer.write(0, {"vectors": np.zeros((4, 2, 3), np.float16)})
    writer.finalize()
    with pytest.raises(ValueError, match="no recording of episodes: it lacks action"):
        Recording.load(tmp_path)


def test_from_frames_to_rewards_for_an_agent(world, tmp_path):
    """Collect, fit, save, load, and pay single steps of a running world as the recorded truth says."""
    many = SpriteWorld(ObjectGoal(), num_envs=32)
    gather(many, tmp_path / "frames", frames=16_000, length=500)
    rows = reward(tmp_path / "frames", tmp_path / "head", epochs=8)
    value = {row["name"]: row["value"] for row in rows}
    assert value["reward/deep_set/epic"] < 0.2
    assert value["reward/flattened_mlp/epic"] > 2 * value["reward/deep_set/epic"]
    head, encoder = load_head(DeepSetProgress, tmp_path / "head"), oracle()

    potential = as_reward_fn(head, encoder)
    shaped = as_reward_fn(PotentialShaping(head, 0.9), encoder)
    frames, before = world.observe(encoder.requires), world.progress()
    first = encoder(frames)
    outcome = world.step(scripted_actions(world))
    after = world.observe(encoder.requires)
    paid = potential(frames, after)
    assert paid.dtype == np.float32
    np.testing.assert_allclose(paid, world.progress(), atol=0.15)
    np.testing.assert_array_equal(potential(first, encoder(after)), paid)  # slots already at hand
    now = potential(after, frames)
    np.testing.assert_allclose(now, before, atol=0.15)
    ended = np.array([True, False, False, False])
    expected = outcome.reward + 0.9 * np.where(ended, 0, paid) - now
    np.testing.assert_allclose(shaped(frames, after, None, outcome.reward, ended), expected, atol=1e-6)
    with pytest.raises(ValueError, match="needs rewards, terminated"):
        shaped(frames, after)

    other = OracleObjects(5, {"scale": 1, "position": 2}, encoder.categories)
    with pytest.raises(ValueError, match="fitted on slots of the encoder"):
        as_reward_fn(PotentialShaping(head, 0.9), other)


def test_a_goal_is_paid_for_and_never_assumed(world):
    encoder = oracle()
    similarity = SlotGoalSimilarity([Columns([0, 1])], identity=Columns(range(3, encoder.dim)))
    with pytest.raises(ValueError, match="needs goal slots"):
        as_reward_fn(similarity, encoder)
    frames = world.observe(encoder.requires)
    slots = encoder(frames)
    with pytest.raises(ValueError, match="width 3"):
        as_reward_fn(similarity, encoder, Slots.of(torch.zeros(1, 1, 3)))
    reached = as_reward_fn(similarity, encoder, Slots.of(slots.vectors.flip(1)))
    np.testing.assert_allclose(reached(frames, frames), 1.0, atol=1e-5)
    one_goal = as_reward_fn(similarity, encoder, Slots.of(slots.vectors[:1]))(frames, frames)
    assert one_goal[0] == pytest.approx(1.0, abs=1e-5)
    assert (one_goal[1:] < 0.99).all()


def test_a_slot_that_is_not_finite_is_refused(world):
    similarity = SlotGoalSimilarity([Columns([0])])
    encoder = oracle()
    goal = Slots.of(torch.ones(1, 1, encoder.dim))
    broken = Slots.of(torch.full((4, 5, encoder.dim), float("nan")))
    with pytest.raises(ValueError, match="NaN or infinity"):
        as_reward_fn(similarity, encoder, goal)(broken, broken)

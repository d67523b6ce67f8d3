"""Any gymnasium environment as a world: whose episodes are those of gymnasium, and which continue exactly."""

from __future__ import annotations

import warnings
from functools import partial
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gymnasium import spaces

from rl_probes import snapshot
from rl_probes.agent import Agent
from rl_probes.end_to_end import RawImage
from rl_probes.envs.gymnasium_world import GymnasiumWorld
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.evaluate import evaluate
from rl_probes.observation import Observer, Standardisation
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, train

IMAGES = frozenset({"images"})
pygame = pytest.mark.skipif(find_spec("pygame") is None, reason='needs "gymnasium[classic-control]"')


class Line(gym.Env):
    """Walk along nine places to the right end; a white column of the picture is where one stands."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}
    observation_space = spaces.Box(0, 8, (1,), np.float64)
    action_space = spaces.Discrete(3, start=-1)

    def __init__(self, render_mode=None, tells=True):
        self.render_mode, self.tells = render_mode, tells

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(5))
        return np.array([self.place], float), {}

    def step(self, action):
        assert self.action_space.contains(action)
        slip = int(self.np_random.integers(2))  # a walk that needs the episode's own generator
        self.place = int(np.clip(self.place + action * (1 + slip), 0, 8))
        info = {"is_success": self.place == 8} if self.tells else {}
        return np.array([self.place], float), float(self.place), self.place == 8, False, info

    def render(self):
        picture = np.zeros((18, 36, 3), np.uint8)
        picture[:, 4 * self.place : 4 * self.place + 4] = 255
        return picture


class Seen(Line):
    """The same with the picture as observation."""

    metadata = {"render_modes": []}
    observation_space = spaces.Box(0, 255, (18, 36, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return Line.render(self), {}

    def step(self, action):
        _, *rest = super().step(action)
        return Line.render(self), *rest

    def render(self):
        raise AssertionError("nobody needs to draw this")


class Drifting(Line):
    """One that a seed does not fix."""

    wind = np.random.default_rng(0)

    def step(self, action):
        return super().step(int(self.wind.integers(-1, 2)))


class Pushed(Line):
    """Continuous actions."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        assert action.dtype == np.float32
        assert self.action_space.contains(action)
        self.place = int(np.clip(self.place + round(float(action.sum())), 0, 8))
        return np.array([self.place], float), 0.0, False, False, {}


class Blind(Line):
    metadata = {"render_modes": ["human", "ansi"]}


for kind in (Line, Seen, Drifting, Pushed, Blind):
    gym.register(f"test/{kind.__name__}-v0", kind, max_episode_steps=12)


def frames(world, indices=None):
    return world.observe(IMAGES, indices).images


def places(images):
    """Where the white columns are."""
    return images[:, 0, 0, ::4].argmax(dim=1).tolist()


@pytest.mark.parametrize("name", ["Line", "Seen"])
def test_episodes_are_those_of_gymnasium(name):
    world = GymnasiumWorld(f"test/{name}-v0", 3)
    assert (world.num_actions, world.image_size) == (3, (18, 36))
    seeds, generator = np.array([5, 6, 2**31 + 7]), np.random.default_rng(0)
    world.reset(seeds=seeds)
    twins = [gym.make("test/Line-v0", render_mode="rgb_array") for _ in seeds]
    for twin, seed in zip(twins, (5, 6, 7), strict=True):
        twin.reset(seed=seed)
    over = np.zeros(3, bool)
    for _ in range(12):
        drawn = np.stack([twin.render() for twin in twins])
        assert np.array_equal(frames(world).permute(0, 2, 3, 1).numpy(), drawn)
        actions = generator.integers(3, size=3)
        outcome = world.step(actions)
        for index in np.flatnonzero(~over):
            _, reward, terminated, truncated, info = twins[index].step(int(actions[index]) - 1)
            assert outcome.reward[index] == reward
            assert (outcome.terminated[index], outcome.truncated[index]) == (terminated, truncated)
            assert outcome.info["success"][index] == info["is_success"]
        over = outcome.terminated | outcome.truncated
    assert over.all()


def test_a_finished_environment_stands_still_until_it_is_reset():
    world = GymnasiumWorld("test/Line-v0", 3, seed=1)
    for _ in range(8):
        outcome = world.step(np.array([2, 0, 0]))
    assert outcome.terminated.tolist() == [True, False, False]
    assert outcome.info["success"].tolist() == [True, False, False]
    assert places(frames(world)) == [8, 0, 0]
    outcome = world.step(np.array([0, 2, 2]))
    assert outcome.terminated[0]
    assert outcome.info["success"][0]
    assert outcome.reward[0] == 0
    assert places(frames(world))[0] == 8
    world.reset(np.array([0]), np.array([3]))
    other = GymnasiumWorld("test/Line-v0")
    other.reset(seeds=np.array([3]))
    assert torch.equal(frames(world, np.array([0])), frames(other))


def test_nothing_is_drawn_that_nobody_asks_for():
    world = GymnasiumWorld("test/Line-v0", 2)
    world.reset()
    world.step(np.array([0, 1]))
    assert world.observe(frozenset()).images.shape == (2, 3, 0, 0)
    assert frames(world, np.arange(0)).shape == (0, 3, 18, 36)
    assert "success" not in GymnasiumWorld("test/Line-v0", arguments={"tells": False}).step(np.array([0])).info


def test_frames_are_resized_with_antialiasing():
    world = GymnasiumWorld("test/Line-v0", 2, (9, 12))
    own = frames(GymnasiumWorld("test/Line-v0", 2))
    assert world.image_size == (9, 12)
    expected = F.interpolate(own.float(), (9, 12), mode="bilinear", antialias=True)
    assert (frames(world).float() - expected).abs().max() <= 1


def test_continuous_actions_are_chosen_from_a_list():
    world = GymnasiumWorld("test/Pushed-v0", 3, moves=[[0, 0], [1, 0], [1, 1]])
    before = places(frames(world))
    world.step(np.array([0, 1, 2]))
    assert places(frames(world)) == [min(8, place + step) for place, step in zip(before, (0, 1, 2), strict=True)]
    assert world.provenance()["moves"] == [[0, 0], [1, 0], [1, 1]]
    right = GymnasiumWorld("test/Line-v0", moves=[1])
    assert right.num_actions == 1
    assert right.step(np.array([0])).reward[0] > 0


def play(world, generator, steps):
    """What is seen and paid while finished environments restart."""
    seen = []
    for _ in range(steps):
        outcome = world.step(generator.integers(world.num_actions, size=world.num_envs))
        world.reset(np.flatnonzero(outcome.terminated | outcome.truncated))
        seen.append((frames(world).numpy(), outcome.reward))
    return seen


@pytest.mark.parametrize(
    ("name", "processes"), [("test/Line-v0", False), pytest.param("CartPole-v1", True, marks=pygame)]
)
def test_a_world_continues_exactly_from_its_state(name, processes, tmp_path):
    world = GymnasiumWorld(name, 4, (16, 16), seed=3, processes=processes)
    play(world, np.random.default_rng(0), 40)
    world.step(np.zeros(4, np.int64))
    snapshot.save(tmp_path / "state", world.state())
    other = GymnasiumWorld(name, 4, (16, 16), seed=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_state(snapshot.load(tmp_path / "state"))
    one, two = (play(each, np.random.default_rng(1), 40) for each in (world, other))
    for first, second in zip(one, two, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    world.close()
    other.close()


@pygame
def test_a_process_that_dies_is_said_in_one_sentence():
    world = GymnasiumWorld("CartPole-v1", 2, (8, 8), processes=True)
    world._vector.processes[1].kill()
    world._vector.processes[1].join()
    with pytest.raises(ChildProcessError, match="CartPole-v1: the process of an environment died"):
        world.step(np.zeros(2, np.int64))


def test_an_environment_that_a_seed_does_not_fix_says_that_it_cannot_continue_exactly():
    world = GymnasiumWorld("test/Drifting-v0", 8)
    for _ in range(5):
        world.step(np.ones(8, np.int64))
    with pytest.warns(UserWarning, match="test/Drifting-v0 does not repeat its episodes from seed and actions"):
        world.set_state(world.state())


@pygame
def test_an_agent_trains_continues_and_is_evaluated(tmp_path):
    def world(num_envs=4):
        return GymnasiumWorld("CartPole-v1", num_envs, (8, 8), seed=1)

    encoder, pooling = RawImage((8, 8)), partial(DeepSetPooling, width=8)
    common = {
        "config": PPOConfig(n_steps=16, batch_size=32, n_epochs=1),
        "standardisation": Standardisation.identity(encoder.dim),
        "snapshot_every": 1,
    }
    whole = train(world(), encoder, pooling, folder=tmp_path / "whole", total_steps=192, **common)
    train(world(), encoder, pooling, folder=tmp_path / "parts", total_steps=64, **common)
    parts = train(world(), encoder, pooling, folder=tmp_path / "parts", total_steps=192, **common)
    for (name, one), two in zip(whole.policy.named_parameters(), parts.policy.parameters(), strict=True):
        assert torch.equal(one, two), name
    agent = Agent.load(tmp_path / "whole" / "agent.safetensors", encoder, pooling)
    alone, together = (evaluate(agent, world(count), range(6)) for count in (1, 4))
    np.testing.assert_array_equal(alone.returns, together.returns)
    assert (alone.returns == alone.lengths).all()  # one for every step that the pole stands
    assert np.isnan(alone.success).all()


def test_another_resolution_than_the_encoders_is_said():
    encoder = RawImage((32, 32))
    observer = Observer(encoder, Standardisation.identity(encoder.dim))
    with pytest.warns(UserWarning, match=r"frames of \(18, 36\) are resized to \(32, 32\), the encoder's"):
        FrozenFeatureVecEnv(GymnasiumWorld("test/Line-v0"), observer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FrozenFeatureVecEnv(GymnasiumWorld("test/Line-v0", 1, (32, 32)), observer)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"test/Blind-v0 has no pixels: .* draws for human, ansi, not as rgb_array"):
        GymnasiumWorld("test/Blind-v0")
    with pytest.raises(ValueError, match="gymnasium cannot make test/Nothing-v0"):
        GymnasiumWorld("test/Nothing-v0")
    with pytest.raises(ValueError, match=r"takes Box\(.*give `moves`"):
        GymnasiumWorld("test/Pushed-v0")
    with pytest.raises(ValueError, match=r"moves must be actions of Box.*got \[1, 2\]"):
        GymnasiumWorld("test/Pushed-v0", moves=[[0, 0], [1, 2]])
    with pytest.raises(ValueError, match="at least one; got none"):
        GymnasiumWorld("test/Line-v0", moves=[])
    with pytest.raises(ValueError, match="at least 1"):
        GymnasiumWorld("test/Line-v0", 0)
    world = GymnasiumWorld("test/Line-v0", 2)
    with pytest.raises(ValueError, match=r"actions in 0\.\.2"):
        world.step(np.array([0, 3]))
    with pytest.raises(ValueError, match="cannot observe"):
        world.observe(frozenset({"segmentation"}))
    with pytest.raises(ValueError, match="one seed each"):
        world.reset(np.array([0, 1]), np.array([3]))
    with pytest.raises(TypeError, match="flatnonzero"):
        world.reset(np.array([True, False]))
    with pytest.raises(ValueError, match="this world has 2"):
        world.set_state(GymnasiumWorld("test/Line-v0", 3).state())
    with pytest.raises(ValueError, match=r"the state has moves = \[1, 0\], this world None"):
        world.set_state(GymnasiumWorld("test/Line-v0", 2, moves=[1, 0]).state())
    with pytest.raises(ValueError, match=r"the state has arguments = .*False}, this world None"):
        world.set_state(GymnasiumWorld("test/Line-v0", 2, arguments={"tells": False}).state())
    with pytest.raises(ValueError, match="the state has environment = 'test/Seen-v0'"):
        world.set_state(GymnasiumWorld("test/Seen-v0", 2).state())

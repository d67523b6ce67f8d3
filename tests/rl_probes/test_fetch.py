"""The robot tasks for real: what is drawn, labelled and listed is what the simulator holds."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("gymnasium_robotics", reason='needs the extra: pip install "ocl-research[robots]"')

import gymnasium as gym

from ocl.representations import OracleObjects
from rl_probes import snapshot
from rl_probes.envs import mujoco_library
from rl_probes.envs.fetch import CUBE, ROBOT, TARGET, FetchWorld, View, project, scripted_pushes
from rl_probes.pooling import DeepSetPooling
from rl_probes.ppo import PPOConfig, train

ALL = frozenset({"images", "segmentation", "objects"})
STATE = frozenset({"objects"})


@pytest.fixture(scope="module")
def drawn() -> None:
    """Asked for by every test that looks at pixels."""
    try:
        mujoco_library.Renderer(mujoco_library.load().MjModel.from_xml_string("<mujoco/>"), (8, 8))
    except ImportError as error:
        pytest.skip(str(error))


def walk(world, steps, seed=0):
    generator = np.random.default_rng(seed)
    return [world.step(generator.integers(world.num_actions, size=world.num_envs)) for _ in range(steps)]


@pytest.mark.parametrize(("task", "id"), [("push", "FetchPush-v4"), ("pick and place", "FetchPickAndPlace-v4")])
@pytest.mark.parametrize("reward", ["sparse", "dense"])
def test_episodes_are_those_of_gymnasium_robotics(task, id, reward):
    world = FetchWorld(task, 1, reward=reward)
    world.reset(seeds=np.array([7]))
    moves = np.array(world.provenance()["moves"], np.float32)
    assert moves.shape == ((7 if task == "push" else 14), 4)
    twin = gym.make(id, reward_type=reward)
    seen, _ = twin.reset(seed=7)
    generator = np.random.default_rng(0)
    for step in range(50):
        place = world.observe(STATE).objects["place"][0].numpy()
        np.testing.assert_allclose(place[ROBOT], seen["observation"][:3], atol=1e-6)
        np.testing.assert_allclose(place[CUBE], seen["achieved_goal"], atol=1e-6)
        np.testing.assert_allclose(place[TARGET], seen["desired_goal"], atol=1e-6)
        action = generator.integers(len(moves))
        outcome = world.step(np.array([action]))
        seen, paid, _, truncated, info = twin.step(moves[action])
        distance = np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"])
        assert outcome.reward[0] == np.float32(paid)
        assert paid == pytest.approx(-distance if reward == "dense" else -float(distance > 0.05))
        assert outcome.info["success"][0] == bool(info["is_success"]) == (distance < 0.05)
        assert (outcome.info["progress"][0] == 1) == (distance <= 0.05)
        assert outcome.truncated[0] == truncated == (step == 49)
        assert not outcome.terminated[0]


def test_the_state_is_complete():
    """Velocities are changes of place, rotations are rotations, fingers open on command."""
    world = FetchWorld("pick and place", 2)
    walk(world, 4)
    before = world.observe(STATE).objects
    world.step(np.array([8, 8]))  # along x, opening
    for _ in range(3):
        world.step(np.array([7, 0]))  # rest, one opening and one closing
    state = world.observe(STATE).objects
    assert {name: value.shape[2:].numel() for name, value in state.items() if value.is_floating_point()} == {
        "position": 2, "place": 3, "velocity": 3, "rotation": 9, "spin": 3, "opening": 1,
    }  # fmt: skip
    matrices = state["rotation"].unflatten(-1, (3, 3))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(3).expand(2, 3, 3, 3), atol=1e-5, rtol=0)
    assert state["opening"][0, ROBOT] > before["opening"][0, ROBOT] + 0.005
    assert state["opening"][0, ROBOT] > state["opening"][1, ROBOT] + 0.02
    assert (state["opening"][:, 1:] == 0).all()
    assert state["kind"].tolist() == [[0, 1, 2]] * 2
    assert state["visible"].all()
    place = state["place"][:, ROBOT]
    world.step(np.array([11, 11]))
    velocity = world.observe(STATE).objects["velocity"][:, ROBOT]
    moved = world.observe(STATE).objects["place"][:, ROBOT] - place
    assert (velocity[:, 0] < -0.1).all()
    assert (moved[:, 0] < -0.01).all()


def test_what_is_labelled_is_what_is_drawn_and_where_the_list_says(drawn):
    world = FetchWorld("push", 16, (128, 128), seed=2)
    batch = world.observe(ALL)
    assert batch.images.shape == (16, 3, 128, 128)
    assert batch.segmentation.shape == (16, 128, 128)
    found = dict.fromkeys((1, 2, 3), 0)
    for image, labels, centres in zip(batch.images, batch.segmentation, batch.objects["position"], strict=True):
        assert set(labels.unique().tolist()) <= {0, 1, 2, 3}
        red, green, _ = image.int()
        reddish = red > 2 * green + 20
        if (labels == 3).sum() > 28:  # hardly hidden; the rest is a rim of mixed colours
            assert (reddish & (labels == 3)).sum() > 0.75 * (reddish | (labels == 3)).sum()
        for column in (CUBE, TARGET):
            y, x = torch.nonzero(labels == column + 1, as_tuple=True)
            if len(x) > {CUBE: 90, TARGET: 28}[column]:  # all of it is seen
                centre = (torch.stack([x.float().mean(), y.float().mean()]) + 0.5) / 128
                assert (centre - centres[column]).abs().max() < 0.012
                found[column + 1] += 1
        found[1] += bool((labels == 1).sum() > 500)
    assert found[1] == 16
    assert min(found.values()) >= 8


def test_a_projection_is_that_of_a_camera():
    view = View((1.0, 2.0, 3.0), 2.0, azimuth=90.0, elevation=0.0)  # looks along y
    points = np.array([[1, 2, 3], [2, 2, 3], [1, 2, 4], [2, 4, 3], [0, 2, 3]], float)
    expected = np.array([[0.5, 0.5], [0.75, 0.5], [0.5, 0.25], [0.625, 0.5], [0.25, 0.5]])
    np.testing.assert_allclose(project(points, view, 2 * np.degrees(np.arctan(1.0)), (64, 64)), expected)
    wide = project(points, view, 90.0, (64, 128))
    np.testing.assert_allclose(wide[:, 0] - 0.5, (expected[:, 0] - 0.5) / 2)


def test_looking_changes_nothing(drawn):
    seen, unseen = FetchWorld("push", 2, seed=1), FetchWorld("push", 2, seed=1)
    for _ in range(30):
        actions = scripted_pushes(unseen)
        seen.observe(ALL)
        assert np.array_equal(seen.step(actions).info["progress"], unseen.step(actions).info["progress"])
    for name, value in seen.observe(STATE).objects.items():
        assert torch.equal(value, unseen.observe(STATE).objects[name])


def test_seven_moves_are_enough_to_push():
    world = FetchWorld("push", 16)
    world.reset(seeds=np.arange(16))
    for _ in range(50):
        outcome = world.step(scripted_pushes(world))
    assert outcome.info["success"].mean() > 0.75
    world.reset(seeds=np.arange(16))
    assert walk(world, 50)[-1].info["success"].mean() < 0.3


def test_a_world_continues_exactly_from_its_state(tmp_path, drawn):
    world = FetchWorld("pick and place", 3, seed=1)
    walk(world, 20)
    world.reset(np.array([1]))
    walk(world, 10)
    snapshot.save(tmp_path / "state", world.state())
    other = FetchWorld("pick and place", 3, seed=2)
    walk(other, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_state(snapshot.load(tmp_path / "state"))
    for one, two in zip(walk(world, 20, 1), walk(other, 20, 1), strict=True):
        assert np.array_equal(one.reward, two.reward)
        assert np.array_equal(one.info["progress"], two.info["progress"])
    assert torch.equal(world.observe(ALL).images, other.observe(ALL).images)


def test_an_episode_is_a_function_of_its_seed():
    world = FetchWorld("push", 2)
    walk(world, 30)
    world.reset(seeds=np.array([5, 6]))
    played = walk(world, 20, 3)
    fresh = FetchWorld("push", 2)
    fresh.reset(seeds=np.array([5, 6]))
    for one, two in zip(played, walk(fresh, 20, 3), strict=True):
        assert np.array_equal(one.info["progress"], two.info["progress"])


def test_an_agent_trains_on_the_list_of_objects(tmp_path):
    encoder = OracleObjects(3, {"place": 3, "velocity": 3}, {"kind": 3})
    config = PPOConfig(n_steps=8, batch_size=16)
    pooling = partial(DeepSetPooling, width=16)
    train(FetchWorld("push", 2), encoder, pooling, folder=tmp_path, total_steps=32, config=config)
    assert (tmp_path / "agent.safetensors").is_file()


def test_what_does_not_fit_is_refused(drawn):
    with pytest.raises(ValueError, match="task must be among push, pick and place"):
        FetchWorld("slide")
    with pytest.raises(ValueError, match="reward sparse or dense"):
        FetchWorld(reward="shaped")
    with pytest.raises(ValueError, match=r"moves must be actions of Box"):
        FetchWorld(moves=[[2.0, 0, 0, 0]])
    with pytest.raises(ValueError, match=r"at most \(\d+, \d+\) pixels"):
        FetchWorld(image_size=(4096, 4096)).observe(ALL)
    with pytest.raises(ValueError, match="the state has environment = 'FetchPush-v4'"):
        FetchWorld("pick and place").set_state(FetchWorld("push").state())


LACKING = """
import os, sys
os.environ.pop("MUJOCO_GL", None)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {package!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Hide())
from rl_probes.envs import mujoco_library
try:
    model = mujoco_library.load().MjModel.from_xml_string("<mujoco/>")
    mujoco_library.Renderer(model, (8, 8))
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("mujoco", 'robots need MuJoCo; install it with: pip install "ocl-research[robots]".'),
        ("gymnasium_robotics", 'robots need MuJoCo; install it with: pip install "ocl-research[robots]".'),
        ("OpenGL", "MuJoCo cannot draw without a screen ("),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(package, said):
    code = LACKING.format(package=package)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith(said)
    assert run.stdout.strip().count("\n") == 0

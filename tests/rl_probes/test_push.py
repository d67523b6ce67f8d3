import numpy as np
import pytest

from ocl.data.sprites import COLORS, SHAPES, seen
from rl_probes.envs.push import GOAL, Push
from rl_probes.envs.sprite_world import SpriteWorld, random_actions

UP, LEFT, DOWN, RIGHT = range(4)


def world_with(objects, agent=(0.5, 0.5), target=0):
    """One episode with the objects at these places, the others far away."""
    world = SpriteWorld(Push(), 1)
    world.position[:] = [[0.9, 0.6], [0.9, 0.75], [0.9, 0.9]]
    world.position[0, : len(objects)] = objects
    world.agent[:] = agent
    world.target[:] = target
    return world


def act(world, *actions):
    return [world.step(np.array([action])) for action in actions][-1]


def test_new_episodes_hold_one_blue_square_and_others_clear_of_walls_and_goal():
    world = SpriteWorld(Push(), 10_000, seed=1)
    assert (world.shape == SHAPES.index("square")).all()
    blue = world.color == COLORS.index("blue")
    assert (blue.sum(axis=1) == 1).all()
    assert np.array_equal(blue.argmax(axis=1), world.target)
    assert world.position.min() >= 0.225
    assert world.position.max() <= 0.775
    sprites = np.concatenate([world.position, np.full((10_000, 1, 2), GOAL), np.full((10_000, 1, 2), 0.5)], axis=1)
    between = np.linalg.norm(sprites[:, :, None] - sprites[:, None], axis=-1)[:, ~np.eye(5, dtype=bool)]
    assert 0.23 - 1e-12 <= between.min() < 0.2302


def test_an_object_is_pushed_along_the_axis_only():
    world = world_with([[0.5, 0.64]])
    act(world, UP)
    assert world.position[0, 0] == pytest.approx([0.5, 0.69])
    assert world.agent[0] == pytest.approx([0.5, 0.55])
    world = world_with([[0.53, 0.64]])
    act(world, UP)
    assert world.position[0, 0] == pytest.approx([0.53, 0.69])


def test_an_object_in_reach_but_not_in_the_way_is_left_alone():
    world = world_with([[0.5, 0.70001]])
    act(world, UP)
    assert world.position[0, 0] == pytest.approx([0.5, 0.70001])
    assert world.agent[0] == pytest.approx([0.5, 0.55])


def test_a_wall_stops_the_object_and_the_agent_behind_it():
    world = world_with([[0.3, 0.9]], agent=(0.3, 0.75))
    act(world, UP)
    assert world.position[0, 0] == pytest.approx([0.3, 0.925])
    assert world.agent[0] == pytest.approx([0.3, 0.775])  # only as far as the object
    act(world, UP)
    assert world.position[0, 0] == pytest.approx([0.3, 0.925])
    assert world.agent[0] == pytest.approx([0.3, 0.775])


def test_a_second_object_behind_blocks():
    world = world_with([[0.5, 0.65], [0.5, 0.81]])
    act(world, UP)
    assert world.position[0, :2] == pytest.approx(np.array([[0.5, 0.65], [0.5, 0.81]]))
    assert world.agent[0] == pytest.approx([0.5, 0.5])


def test_two_objects_side_by_side_are_pushed_together():
    world = world_with([[0.42, 0.6], [0.58, 0.6]])
    act(world, UP)
    assert world.position[0, :2] == pytest.approx(np.array([[0.42, 0.65], [0.58, 0.65]]))
    assert world.agent[0] == pytest.approx([0.5, 0.55])


@pytest.mark.parametrize(("target", "paid"), [(0, 1.0), (1, 0.0)])
def test_the_first_object_in_the_goal_ends_the_episode_and_only_the_blue_one_pays(target, paid):
    world = world_with([[0.29, GOAL]], agent=(0.44, GOAL), target=target)
    outcome = act(world, LEFT)
    assert not outcome.terminated[0]
    assert outcome.info["progress"][0] < 1
    outcome = act(world, LEFT)
    assert outcome.terminated[0]
    assert outcome.reward[0] == paid
    assert outcome.info["success"][0] == bool(paid)
    assert (outcome.info["progress"][0] == 1) == bool(paid)


def test_random_play_keeps_everything_inside_and_rarely_succeeds():
    world, generator = SpriteWorld(Push(), 3000, seed=2), np.random.default_rng(0)
    running, success, length = np.ones(3000, dtype=bool), np.zeros(3000, dtype=bool), np.zeros(3000)
    while running.any():
        outcome = world.step(random_actions(world, generator))
        assert world.position.min() >= 0.075
        assert world.position.max() <= 0.925
        length += running
        success |= running & outcome.info["success"]
        running &= ~(outcome.terminated | outcome.truncated)
    assert 0 < success.mean() < 0.03
    assert length.mean() == pytest.approx(98, abs=2)


def test_the_goal_is_drawn_over_objects_and_observed():
    world = world_with([[GOAL, 0.3]], target=0)
    batch = world.observe(frozenset({"segmentation", "objects"}))
    assert batch.objects["position"].shape == (1, 5, 2)
    assert batch.objects["position"][0, 3].tolist() == pytest.approx([GOAL, 1 - GOAL])
    assert batch.objects["is_agent"].tolist() == [[0, 0, 0, 0, 1]]
    assert seen(batch.segmentation.numpy().astype(np.uint8), 5).all()


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="at least 1 object"):
        Push(0)
    with pytest.raises(ValueError, match="colors"):
        Push(2, ["blue"])

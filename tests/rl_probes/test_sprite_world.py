import json

import numpy as np
import pytest
import torch

from ocl.data.sprites import COLORS, SHAPES, seen
from rl_probes.envs.push import Push
from rl_probes.envs.sprite_world import SpriteWorld, random_actions, scripted_actions
from rl_probes.envs.tasks import ObjectComparison, ObjectGoal, PropertyComparison

ALL = frozenset({"images", "segmentation", "objects"})
UP, LEFT, DOWN, RIGHT = range(4)
TASKS = [ObjectGoal(), ObjectComparison(), PropertyComparison()]


def empty(num_envs=1):
    """A world whose objects are out of the way."""
    world = SpriteWorld(ObjectGoal(), num_envs)
    world.position[:] = [5.0, 5.0]
    return world


def first_episodes(task, policy, episodes, seed):
    """Success, length and steps' rewards of the first episode in each of `episodes` environments."""
    world, generator = SpriteWorld(task, episodes, seed=seed), np.random.default_rng(seed)
    running, success, length = np.ones(episodes, dtype=bool), np.zeros(episodes, dtype=bool), np.zeros(episodes)
    while running.any():
        outcome = world.step(scripted_actions(world) if policy == "scripted" else random_actions(world, generator))
        assert np.array_equal(outcome.reward[running] == 1, outcome.info["success"][running])
        length += running
        success |= running & outcome.info["success"]
        running &= ~(outcome.terminated | outcome.truncated)
    return success, length


@pytest.mark.parametrize(("task", "published"), list(zip(TASKS, (0.237, 0.223, 0.232), strict=True)))
def test_random_policy_succeeds_as_often_as_in_the_original(task, published):
    success, length = first_episodes(task, "random", 3000, seed=0)
    assert success.mean() == pytest.approx(published, abs=0.03)
    assert length.mean() == pytest.approx(25.5, abs=1.5)


@pytest.mark.parametrize("task", TASKS)
def test_the_straight_way_to_the_target_solves_touch_tasks(task):
    success, length = first_episodes(task, "scripted", 3000, seed=1)
    assert success.mean() >= 0.93
    assert length.mean() < 8


def test_actions_are_up_left_down_right_with_y_up():
    world = empty(4)
    world.step(np.array([UP, LEFT, DOWN, RIGHT]))
    assert world.agent == pytest.approx(np.array([[0.5, 0.55], [0.45, 0.5], [0.5, 0.45], [0.55, 0.5]]))
    images = world.observe(ALL).images
    for environment, (row, column) in enumerate([(28, 32), (32, 28), (35, 32), (32, 35)]):
        rows, columns = np.nonzero(images[environment, 0].numpy() > 128)
        assert abs(rows.mean() + 0.5 - row) < 1
        assert abs(columns.mean() + 0.5 - column) < 1


def test_the_agent_stays_inside_and_the_time_limit_truncates():
    world = empty(4)
    for step in range(100):
        outcome = world.step(np.array([UP, LEFT, DOWN, RIGHT]))
        assert not outcome.terminated.any()
        assert outcome.truncated.all() == (step == 99)
    assert world.agent.max() == pytest.approx(0.925)
    assert world.agent.min() == pytest.approx(0.075)


def test_touching_ends_and_only_the_target_pays():
    world = empty(3)
    world.target[:] = 0
    world.position[0, 0] = [0.5, 0.74]  # the target, touched after two steps up: 0.24 -> 0.14
    world.position[1, 1] = [0.5, 0.74]
    world.position[2, 0] = [0.5, 0.76]
    outcome = world.step(np.full(3, UP))
    assert not outcome.terminated.any()
    outcome = world.step(np.full(3, UP))
    assert outcome.terminated.tolist() == [True, True, False]
    assert outcome.reward.tolist() == [1, 0, 0]
    assert outcome.info["success"].tolist() == [True, False, False]
    assert (outcome.info["progress"] == 1).tolist() == [True, False, False]
    assert not outcome.truncated.any()


def test_an_episode_is_a_function_of_its_seed_and_actions():
    actions = np.random.default_rng(0).integers(4, size=20)
    alone, among = SpriteWorld(ObjectComparison(), 1, seed=1), SpriteWorld(ObjectComparison(), 5, seed=2)
    alone.reset(seeds=np.array([77]))
    among.reset(np.array([3, 1]), np.array([77, 5]))
    for action in actions:
        one, other = alone.observe(ALL), among.observe(ALL, np.array([3]))
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.segmentation, other.segmentation)
        assert all(torch.equal(one.objects[name], other.objects[name]) for name in one.objects)
        left, right = alone.step(np.array([action])), among.step(np.array([0, 0, 0, action, 0]))
        assert left.reward[0] == right.reward[3]
        assert left.info["progress"][0] == right.info["progress"][3]
    among.reset(seeds=np.arange(5))
    assert len(np.unique(among.position.round(6), axis=0)) == 5


def test_a_world_continues_exactly_from_its_state():
    generator = np.random.default_rng(0)
    actions = generator.integers(4, size=(60, 8))

    def play(world, steps):
        seen = []
        for action in steps:
            outcome = world.step(action)
            finished = np.flatnonzero(outcome.terminated | outcome.truncated)
            if len(finished):
                world.reset(finished)
            seen.append((outcome.reward, outcome.info["progress"], world.agent.copy(), world.position.copy()))
        return seen

    world = SpriteWorld(ObjectGoal(), 8, seed=5)
    play(world, actions[:30])
    state = world.state()
    json.dumps(state["generator"])
    before = {name: np.copy(value) for name, value in state.items() if name != "generator"}
    expected = play(world, actions[30:])
    assert all(np.array_equal(state[name], value) for name, value in before.items())
    other = SpriteWorld(ObjectGoal(), 8, seed=99)
    other.set_state(
        json.loads(json.dumps({name: np.asarray(v).tolist() for name, v in before.items()}))
        | {"generator": state["generator"]}
    )
    for one, two in zip(expected, play(other, actions[30:]), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_what_is_observed_matches_what_is_drawn():
    world = SpriteWorld(ObjectComparison(), 64, seed=3)
    generator = np.random.default_rng(0)
    for _ in range(8):
        world.step(random_actions(world, generator))
    batch = world.observe(ALL)
    objects = batch.objects
    assert objects["position"].shape == (64, 5, 2)
    assert objects["is_agent"].tolist() == [[0, 0, 0, 0, 1]] * 64
    assert (objects["color"][:, -1] == COLORS.index("red")).all()
    assert (objects["shape"][:, -1] == SHAPES.index("circle")).all()
    assert np.array_equal(seen(batch.segmentation.numpy().astype(np.uint8), 5), objects["visible"].numpy())
    assert objects["position"][:, -1, 1].numpy() == pytest.approx(1 - world.agent[:, 1])
    rows = torch.arange(64) + 0.5
    mask = batch.segmentation == 5
    centre = (mask.sum(2) * rows).sum(1) / mask.sum((1, 2)) / 64
    assert (centre - objects["position"][:, -1, 1]).abs().max() < 0.6 / 64  # the agent is drawn over everything


def test_only_what_is_asked_for_is_filled():
    world = SpriteWorld(ObjectGoal(), 3, image_size=32)
    state_only = world.observe(frozenset({"objects"}), np.array([2, 0]))
    assert len(state_only) == 2
    assert state_only.images.numel() == 0
    assert state_only.segmentation is None
    pixels = world.observe(frozenset({"images"}), np.array([2, 0]))
    assert pixels.images.shape == (2, 3, 32, 32)
    assert pixels.objects == {}
    assert torch.equal(pixels.images, world.observe(ALL).images[[2, 0]])


def test_provenance_tells_worlds_apart():
    worlds = [
        SpriteWorld(task, image_size=size)
        for task in (*TASKS, Push(), Push(2), ObjectComparison(colors=["blue", "pink"]), ObjectGoal(scales=[0.22]))
        for size in (32, 64)
    ]
    assert len({json.dumps(world.provenance()) for world in worlds}) == len(worlds)


def test_bad_calls_are_refused():
    world = SpriteWorld(ObjectGoal(), 3)
    with pytest.raises(ValueError, match="actions"):
        world.step(np.array([0, 1]))
    with pytest.raises(ValueError, match="actions"):
        world.step(np.array([0, 1, 4]))
    with pytest.raises(ValueError, match="one seed each"):
        world.reset(np.array([0, 1]), np.array([3]))
    with pytest.raises(TypeError, match="flatnonzero"):
        world.reset(np.array([True, False, True]))
    with pytest.raises(ValueError, match="cannot observe"):
        world.observe(frozenset({"depth"}))
    with pytest.raises(ValueError, match="num_envs"):
        SpriteWorld(ObjectGoal(), 0)
    with pytest.raises(ValueError, match="another number"):
        world.set_state(SpriteWorld(ObjectGoal(), 4).state())
    with pytest.raises(ValueError, match="lacks"):
        world.set_state({"agent": world.agent})


@pytest.mark.parametrize(("arguments", "sentence"), [({"num_envs": 0}, "num_envs"), ({"seed": -1}, "seed")])
def test_numbers_that_make_no_world_are_refused(arguments, sentence):
    with pytest.raises(ValueError, match=f"SpriteWorld: {sentence}"):
        SpriteWorld(ObjectGoal(), **arguments)

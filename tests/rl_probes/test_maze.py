"""Eight rooms in a chain: who may pass where, what is drawn, and what counts as seen."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from ocl.data.sprites import COLORS, SHAPES, seen
from rl_probes.collect import KnowsProgress
from rl_probes.envs.maze import BEYOND, MIDDLE, ROOMS, SIDE, STRIDE, MazeWorld

EVERYTHING = frozenset({"images", "segmentation", "objects"})
UP, LEFT, DOWN, RIGHT = range(4)


def at(room, x, y, **options):
    world = MazeWorld(1, **options)
    world.room[:], world.place[:] = room, (x, y)
    return world


def search():
    """(8 17 17) fewest steps to every place, -1 where no episode gets, and the steps to success; by breadth first."""
    every = [(room, x, y) for room in range(len(ROOMS)) for x in range(SIDE) for y in range(SIDE)]
    world = MazeWorld(len(every))
    following, ends = [], []
    for action in range(4):
        world.room[:], world.place[:] = np.array(every)[:, 0], np.array(every)[:, 1:]
        outcome = world.step(np.full(len(every), action))
        following.append(np.column_stack([world.room, world.place]))
        ends.append(outcome.terminated)
    number = {state: index for index, state in enumerate(every)}
    distance = np.full((len(ROOMS), SIDE, SIDE), -1)
    start = (0, MIDDLE, MIDDLE)
    distance[start] = 0
    queue, success = deque([start]), None
    while queue:
        state = queue.popleft()
        for action in range(4):
            then = tuple(following[action][number[state]])
            over = ends[action][number[state]]
            if distance[then] < 0:
                distance[then] = distance[state] + 1
                if over:
                    success = distance[then] if success is None else success
                else:
                    queue.append(then)
    return distance, success


def test_every_place_but_those_behind_the_goal_s_edge_can_be_reached():
    distance, success = search()
    assert success == 114
    x, y = np.indices((SIDE, SIDE)) - MIDDLE
    unreached = np.argwhere(distance < 0)
    assert set(unreached[:, 0]) == {len(ROOMS) - 1}
    inside = np.square(x) + np.square(y)
    assert all(inside[tuple(place)] < 9 for place in unreached[:, 1:])
    assert (distance[:-1] >= 0).all()
    first = [room[room >= 0].min() for room in distance]
    assert first == sorted(first)  # each room lies behind the one before


def test_doors_are_mutual_and_three_places_wide():
    for room, ways in enumerate(BEYOND):
        for action, then in enumerate(ways):
            if then >= 0:
                assert BEYOND[then, (action + 2) % 4] == room
    assert (BEYOND >= 0).sum() == 2 * (len(ROOMS) - 1)
    passed = []
    for y in range(SIDE):
        world = at(0, SIDE - 1, y)
        world.step(np.array([RIGHT]))
        passed.append(int(world.room[0]))
        assert tuple(world.place[0]) == ((0, y) if passed[-1] else (SIDE - 1, y))
    assert np.flatnonzero(passed).tolist() == [MIDDLE - 1, MIDDLE, MIDDLE + 1]
    world = at(0, 0, MIDDLE)
    world.step(np.array([LEFT]))
    assert (world.room[0], *world.place[0]) == (0, 0, MIDDLE)


def test_touching_the_goal_is_the_success_and_time_runs_out():
    world = at(7, MIDDLE + 3, MIDDLE)
    outcome = world.step(np.array([LEFT]))
    assert outcome.terminated[0]
    assert outcome.reward[0] == 1
    assert outcome.info["success"][0]
    assert outcome.info["progress"][0] == 1
    world = at(6, MIDDLE + 3, MIDDLE)  # the same place of another room
    assert not world.step(np.array([LEFT])).terminated[0]
    world = MazeWorld(2, time_limit=3)
    ends = [world.step(np.array([UP, DOWN])).truncated.tolist() for _ in range(3)]
    assert ends == [[False] * 2, [False] * 2, [True] * 2]
    assert isinstance(world, KnowsProgress)


def test_frames_show_the_room_with_exact_masks():
    world = MazeWorld(8, seed=3)
    world.room[:] = np.arange(8)
    world.place[:] = [2, 13]
    batch = world.observe(EVERYTHING)
    visible = batch.objects["visible"].numpy()
    assert (visible[:, 3:7] == (BEYOND >= 0)).all()
    assert visible[:, 7].tolist() == [False] * 7 + [True]
    assert visible[:, :3].all()
    assert visible[:, -1].all()
    drawn = seen(batch.segmentation.numpy().astype(np.uint8), 9)
    assert not (drawn & ~visible).any()
    assert drawn[:, 3:][visible[:, 3:]].all()  # landmarks may lie under the agent, the rest is always seen
    assert batch.objects["position"][0, -1].tolist() == pytest.approx([0.5 - 6 * STRIDE, 0.5 - 5 * STRIDE])
    assert batch.objects["color"][7, 7] == COLORS.index("blue")
    assert batch.objects["shape"][7, 7] == SHAPES.index("square")
    images = batch.images.float()
    assert all((images[i] != images[j]).any() for i in range(8) for j in range(i)), "rooms that look alike"
    other = MazeWorld(8, seed=4).observe(frozenset({"objects"})).objects["position"]
    assert not torch.equal(other, MazeWorld(8, seed=3).observe(frozenset({"objects"})).objects["position"])
    one = world.observe(EVERYTHING, np.array([5]))
    assert torch.equal(one.images[0], batch.images[5])
    assert one.objects.keys() == batch.objects.keys()


def test_the_middle_stays_free_of_landmarks():
    for seed in range(50):
        places = MazeWorld(8, seed=seed)._furniture["position"][:, :3]
        assert np.linalg.norm(places - 0.5, axis=-1).min() >= 0.15 + 0.08 - 1e-9


def test_coverage_counts_every_environment_once_per_place():
    world = MazeWorld(2)
    assert world.coverage() == pytest.approx(1 / (8 * SIDE * SIDE))
    world.step(np.array([UP, LEFT]))
    world.step(np.array([DOWN, LEFT]))
    assert world.coverage() == pytest.approx(4 / (8 * SIDE * SIDE))
    assert world.rooms_seen() == 1
    assert world.visits.sum() == 2 + 4
    assert world.visits[0, MIDDLE, MIDDLE] == 3


def test_a_restored_world_goes_on_exactly():
    generator = np.random.default_rng(0)
    actions = generator.integers(4, size=(400, 4))
    world, other = MazeWorld(4, seed=1), MazeWorld(4, seed=1)
    for step in actions[:200]:
        world.step(step)
    other.set_state(world.state())
    for step in actions[200:]:
        one, two = world.step(step), other.step(step)
        assert np.array_equal(one.truncated, two.truncated)
    assert np.array_equal(world.visits, other.visits)
    assert torch.equal(world.observe(EVERYTHING).images, other.observe(EVERYTHING).images)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        MazeWorld(0)
    with pytest.raises(ValueError, match=r"actions in 0\.\.3"):
        MazeWorld(2).step(np.array([0, 4]))
    with pytest.raises(ValueError, match="cannot observe"):
        MazeWorld().observe(frozenset({"depth"}))
    with pytest.raises(ValueError, match="one seed each"):
        MazeWorld(3).reset(np.array([0, 1]), np.array([5]))
    with pytest.raises(ValueError, match="this world needs"):
        MazeWorld(2).set_state(MazeWorld(3).state())


def test_a_mask_is_no_list_of_environments():
    with pytest.raises(TypeError, match="MazeWorld: indices must be integers, got bool"):
        MazeWorld(2).observe(frozenset({"objects"}), np.array([True, False]))

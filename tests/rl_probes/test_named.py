"""Tasks by name: what the episodes behind a name hold."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ocl.data.sprites import COLORS, SHAPES
from rl_probes.envs.mixture import Mixture
from rl_probes.envs.named import FAMILIES, held_out_pairs, out_of_distribution, task_of
from rl_probes.envs.push import Push
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison, ObjectGoal, PropertyComparison

EPISODES = 2000


def looks(task):
    """The names of the colours and of the shapes that occur among the objects."""
    world = SpriteWorld(task, EPISODES, seed=3)
    return {COLORS[i] for i in np.unique(world.color)}, {SHAPES[i] for i in np.unique(world.shape)}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_alone_is_its_published_difficulty(family):
    kind, published = FAMILIES[family]
    assert task_of(family).describe() == kind().describe() == task_of(f"{family} {published}").describe()


@pytest.mark.parametrize("difficulty", ["N4C3S2S1", "N4C2S3S1", "N4C4S3S2", "N5C2S2S1", "N6C2S2S1", "N4C2S4S2"])
@pytest.mark.parametrize("family", ["object goal", "object comparison", "property comparison"])
def test_a_difficulty_counts_objects_colours_shapes_and_scales(family, difficulty):
    task = task_of(f"{family} {difficulty}")
    objects, colors, shapes, scales = (int(difficulty[i]) for i in (1, 3, 5, 7))
    found = looks(task)
    assert task.num_objects == objects
    assert found == (set(COLORS[:colors]), set(SHAPES[:shapes]))
    assert len(task.scales) == scales


@pytest.mark.parametrize("difficulty", ["N1C1S1S1", "N1C4S1S1", "N2C3S1S1", "N3C4S1S1", "N4C4S1S1"])
def test_push_difficulties_count_objects_and_colours(difficulty):
    world = SpriteWorld(task_of(f"push {difficulty}"), EPISODES, seed=1)
    objects, colors = int(difficulty[1]), int(difficulty[3])
    assert world.position.shape == (EPISODES, objects, 2)
    assert set(np.unique(world.color)) == (set(range(colors)) if objects > 1 else {0})
    assert ((world.color == 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_is_found_by_its_name_and_is_the_same_task_with_other_objects(family):
    sets = out_of_distribution(family)
    kind, published = FAMILIES[family]
    assert len(sets) == (7 if family in ("object goal", "push") else 12)
    for name, task in sets.items():
        assert type(task) is kind
        assert task_of(name).describe() == task.describe()
    same = [name for name, task in sets.items() if task.describe() == kind.of_difficulty(published).describe()]
    assert same == [f"{family}, {published[1]} objects"]  # all others are new to an agent


@pytest.mark.parametrize("family", FAMILIES)
def test_unseen_colours_and_shapes_are_as_many_as_their_name_says(family):
    trained = looks(task_of(family))
    for name, task in out_of_distribution(family).items():
        colors, shapes = looks(task)
        new_colors, new_shapes = colors - trained[0], shapes - trained[1]
        number = int(name.split(", ")[1][0])
        if "object" in name.split(", ")[1]:
            assert (new_colors, new_shapes, task.num_objects) == (set(), set(), number)
            continue
        assert task.num_objects == int(FAMILIES[family][1][1])
        assert len(new_colors) == number * ("color" in name)
        assert len(new_shapes) == number * ("shape" in name)
        known_to_encoders = (new_colors | new_shapes) <= {*COLORS[:4], *SHAPES[:4]}
        assert known_to_encoders == ("by the agent" in name)
        assert known_to_encoders or not (new_colors | new_shapes) & {*COLORS[:4], *SHAPES[:4]}


def test_held_out_pairs_meet_in_evaluation_only():
    tasks = held_out_pairs()
    assert len(tasks) == 6
    for pair in combinations(COLORS[:3], 2):
        held = {COLORS.index(name) for name in pair}
        both = " and ".join(pair)
        training = SpriteWorld(task_of(f"property comparison, {both} never together"), EPISODES, seed=0)
        evaluation = SpriteWorld(task_of(f"property comparison, only {both} together"), EPISODES, seed=0)
        assert all(set(row) == held for row in evaluation.color)
        met = {frozenset(row) for row in training.color}
        assert met == {frozenset(other) for other in combinations(range(3), 2)} - {frozenset(held)}


def test_an_episode_of_a_mixture_is_one_of_its_tasks_whatever_is_drawn_beside_it():
    parts = [ObjectComparison(4, COLORS[:2], SHAPES[:1]), ObjectComparison(4, COLORS[2:4], SHAPES[1:2])]
    world = SpriteWorld(Mixture(parts), EPISODES)
    world.reset(seeds=np.arange(EPISODES))
    second = world.shape[:, 0] == 1
    assert 0.45 < second.mean() < 0.55
    assert np.isin(world.color[second], (2, 3)).all()
    assert np.isin(world.color[~second], (0, 1)).all()
    target = world.color[np.arange(EPISODES), world.target]
    assert ((world.color == target[:, None]).sum(axis=1) == 1).all()
    alone = SpriteWorld(Mixture(parts), 1)
    for seed in range(5):
        alone.reset(seeds=np.array([seed]))
        assert np.array_equal(alone.position[0], world.position[seed])
        assert np.array_equal(alone.color[0], world.color[seed])


def test_unknown_names_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match="begins with object goal, push"):
        task_of("odd one out")
    with pytest.raises(ValueError, match="begins with"):
        task_of("object comparisons N4C2S2S1")
    with pytest.raises(ValueError, match="has the sets 1 object; 2 objects"):
        task_of("push, 7 objects")
    with pytest.raises(ValueError, match="difficulty must read like"):
        task_of("push N3C4")
    with pytest.raises(ValueError, match="end in S1S1"):
        task_of("push N3C4S2S1")
    with pytest.raises(ValueError, match="one of object goal"):
        out_of_distribution("maze")
    with pytest.raises(ValueError, match="colors must be among"):
        Push(2, ["blue"])
    with pytest.raises(ValueError, match="one class and number of objects"):
        Mixture([ObjectGoal(), PropertyComparison()])
    with pytest.raises(ValueError, match="at least one"):
        Mixture([])
    with pytest.raises(ValueError, match="no difficulties"):
        Mixture.of_difficulty("N4C2S2S1")


def test_a_world_takes_its_task_by_name():
    assert SpriteWorld("push N2C3S1S1").provenance() == SpriteWorld(Push(2, COLORS[:3])).provenance()
    with pytest.raises(ValueError, match="begins with"):
        SpriteWorld("pull")

"""What new episodes hold, over ten thousand resets of every task."""

import numpy as np
import pytest

from ocl.data.sprites import COLORS, SHAPES
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import CONTACT, ObjectComparison, ObjectGoal, PropertyComparison

RESETS = 10_000
TASKS = [
    ObjectGoal(),
    ObjectComparison(),
    PropertyComparison(),
    ObjectGoal(6),
    ObjectComparison.of_difficulty("N4C4S3S2"),
]


def attributes(world):
    return {"shape": world.shape, "color": world.color, "scale": world.scale}


def occurrences(values):
    """(n M) -> (n M) how often each value occurs in its row."""
    return (values[:, :, None] == values[:, None]).sum(axis=2)


@pytest.mark.parametrize("task", TASKS)
def test_sprites_keep_their_distances(task):
    world = SpriteWorld(task, RESETS, seed=1)
    assert np.all(world.agent == 0.5)
    position, scale = world.position, world.scale
    between = np.linalg.norm(position[:, :, None] - position[:, None], axis=-1)
    least = (scale[:, :, None] + scale[:, None]) / 2 + 0.08
    pairs = ~np.eye(task.num_objects, dtype=bool)
    assert (between[:, pairs] >= least[:, pairs]).all()
    from_agent = np.linalg.norm(position - 0.5, axis=-1) - (scale + 0.15) / 2 - 0.08
    assert from_agent.min() >= 0
    from_wall = np.minimum(position, 1 - position).min(axis=-1) - scale / 2 - 0.08
    assert from_wall.min() >= -1e-12
    for excess in ((between - least)[:, pairs], from_agent, from_wall):
        assert excess.min() < 0.003  # and they come as near as they may
    if set(np.unique(scale)) == {0.15}:
        assert between[:, pairs].min() >= 0.23 - 1e-12


def test_object_goal_has_one_blue_square_among_others():
    world = SpriteWorld(ObjectGoal(), RESETS, seed=2)
    blue_square = (world.shape == SHAPES.index("square")) & (world.color == COLORS.index("blue"))
    assert (blue_square.sum(axis=1) == 1).all()
    assert np.array_equal(blue_square.argmax(axis=1), world.target)
    kinds = np.bincount((world.shape * 4 + world.color)[~blue_square], minlength=12)
    assert kinds[0] == 0
    assert kinds[1:] / kinds.sum() == pytest.approx(np.full(11, 1 / 11), abs=0.01)
    assert np.bincount(world.target) / RESETS == pytest.approx(np.full(4, 0.25), abs=0.02)


@pytest.mark.parametrize("difficulty", ["N4C2S2S1", "N3C2S2S1", "N4C3S3S2", "N6C4S1S1"])
def test_object_comparison_has_identical_objects_and_one_that_differs_in_one_attribute(difficulty):
    task = ObjectComparison.of_difficulty(difficulty)
    world = SpriteWorld(task, RESETS, seed=3)
    odd = []
    for values in attributes(world).values():
        counts = occurrences(values)
        rows, columns = np.nonzero(counts == 1)
        assert np.array_equal(columns, world.target[rows])
        assert ((counts == 1) | (counts >= task.num_objects - 1)).all()
        odd.append((counts == 1).any(axis=1))
    assert (np.sum(odd, axis=0) == 1).all()
    varying = [len(values) > 1 for values in task.values]
    assert np.mean(odd, axis=1) == pytest.approx(np.array(varying) / sum(varying), abs=0.02)


@pytest.mark.parametrize("difficulty", ["N4C2S2S1", "N4C4S3S2", "N6C3S1S1"])
def test_property_comparison_has_one_value_that_occurs_once(difficulty):
    task = PropertyComparison.of_difficulty(difficulty)
    world = SpriteWorld(task, RESETS, seed=4)
    unique = np.stack([occurrences(values) == 1 for values in attributes(world).values()])  # (3 n M)
    assert (unique.sum(axis=(0, 2)) == 1).all()
    assert np.array_equal(unique.any(axis=0).argmax(axis=1), world.target)
    if difficulty == "N4C2S2S1":
        others = np.stack(list(attributes(world).values()))[:, np.arange(4) != world.target[:, None]]
        others = others.reshape(3, RESETS, 3)
        identical = (others == others[..., :1]).all(axis=(0, 2)).mean()
        assert 0.05 < 1 - identical < 0.95  # unlike in object comparison, the others may differ


def test_difficulty_names_are_parsed_or_refused():
    task = ObjectComparison.of_difficulty("N5C3S4S2")
    assert (task.num_objects, *map(len, task.values)) == (5, 4, 3, 2)
    for wrong in ("N4C2S2", "C2S2S1", "N4C9S2S1", "odd-one-out-N4C2S2S1"):
        with pytest.raises(ValueError, match="difficulty"):
            ObjectComparison.of_difficulty(wrong)


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="find no room"):
        SpriteWorld(ObjectGoal(20))
    with pytest.raises(ValueError, match="attribute with two values"):
        ObjectComparison(4, COLORS[:1], SHAPES[:1])
    with pytest.raises(ValueError, match="at least 3 objects"):
        PropertyComparison(2)
    with pytest.raises(ValueError, match="blue square itself"):
        ObjectGoal(4, ["blue"], ["square"])
    with pytest.raises(ValueError, match="colors must be among"):
        ObjectGoal(colors=["mauve"])
    with pytest.raises(ValueError, match="scales"):
        ObjectGoal(scales=[0.7])


def test_progress_is_a_fixed_scale_of_distance():
    task = ObjectGoal()
    agent = np.array([[0.075, 0.075], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
    target = np.array([[0.925, 0.925], [0.5, 0.6499], [0.5, 0.6501], [0.5, 0.85]])
    objects = np.repeat(target[:, None], 4, axis=1)
    column = np.zeros(4, dtype=np.int64)
    progress = task.progress(agent, objects, column)
    assert progress[0] == pytest.approx(0, abs=1e-6)
    assert progress[1] == 1
    assert 0.999 < progress[2] < 1
    assert progress[3] == pytest.approx(1 - 0.2 / (0.85 * 2**0.5 - CONTACT))
    assert np.array_equal(task.judge(agent, objects, column)[1], progress == 1)

import pickle

import numpy as np
import pytest
import torch

from ocl.data.scenes import Scenes


class Dots(Scenes):
    """One bright pixel per scene; counts how many blocks were drawn."""

    image_size = (4, 5)
    max_objects = 1
    drawn = 0

    def generate(self, generator, count):
        self.drawn += 1
        place = generator.integers(0, 20, size=count)
        segmentation = (np.arange(20) == place[:, None]).reshape(count, 4, 5).astype(np.uint8)
        images = np.repeat(segmentation[:, None] * np.uint8(255), 3, axis=1)
        return {
            "images": images,
            "segmentation": segmentation,
            "visible": np.ones((count, 1), bool),
            "place": place[:, None],
            "noise": generator.random((count, 1)),
        }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_an_item_depends_on_seed_and_index_only():
    forward = [Dots(100, seed=3, block=8)[i] for i in range(100)]
    scenes = Dots(100, seed=3, block=8)
    order = np.random.default_rng(0).permutation(100)
    for i in order:
        assert same(scenes[int(i)], forward[i])
    assert all(same(a, forward[i]) for a, i in zip(scenes.__getitems__(list(order)), order, strict=True))
    larger = Dots(1000, seed=3, block=8)
    assert same(larger[99], forward[99])
    assert same(larger[-1], larger[999])


def test_scenes_and_seeds_differ():
    noise = torch.cat([Dots(64, seed=seed, block=8)[i]["noise"] for seed in (0, 1, 2**32 - 1) for i in range(64)])
    assert len(noise.unique()) == 3 * 64


def test_reading_in_runs_draws_each_block_once():
    scenes = Dots(96, block=16)
    for first in range(0, 96, 8):
        scenes.__getitems__(list(range(first, first + 8)))
    assert scenes.drawn == 6
    assert scenes[95]["place"].shape == (1,)
    assert scenes.drawn == 6


def test_items_are_copies():
    scenes = Dots(8, block=4)
    before = scenes[1]["images"].clone()
    scenes[1]["images"].zero_()
    assert torch.equal(scenes[1]["images"], before)


def test_pickling_drops_kept_blocks():
    scenes = Dots(1 << 12, block=1 << 10)
    item = scenes[0]
    assert len(pickle.dumps(scenes)) < 2000
    assert same(pickle.loads(pickle.dumps(scenes))[0], item)


@pytest.mark.parametrize(
    "arguments", [{"size": 0}, {"size": 4, "seed": -1}, {"size": 4, "seed": 2**32}, {"size": 4, "block": 0}]
)
def test_bad_numbers_are_refused(arguments):
    with pytest.raises(ValueError, match=r"Dots: (size|seed|block) must be in \d+\.\.\d+, got -?\d+\."):
        Dots(**arguments)


def test_not_an_integer_is_refused():
    with pytest.raises(TypeError, match=r"size must be an integer, got 3\.0"):
        Dots(3.0)


def test_index_outside_is_refused():
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"none at index {index}"):
            Dots(10)[index]


def test_a_generator_that_breaks_the_contract_is_refused():
    class Blind(Dots):
        def generate(self, generator, count):
            return {key: value for key, value in super().generate(generator, count).items() if key != "visible"}

    class Short(Dots):
        def generate(self, generator, count):
            return super().generate(generator, count - 1)

    with pytest.raises(ValueError, match=r"Blind\.generate .* missing: visible"):
        Blind(4)[0]
    with pytest.raises(ValueError, match=r"Short\.generate was asked for 32 scenes, but images has 31"):
        Short(4)[0]

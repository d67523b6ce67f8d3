"""The background goes with the class as often as asked, and nothing else does."""

import pytest
import torch

from ocl.data.backgrounds import GradientBackground, NoiseBackground, PlainBackground, TextureBackground
from ocl.data.collate import collate
from ocl.data.sprites import SHAPES
from ocl.data.spurious_scenes import SpuriousScenes


def drawn(count=512, **arguments):
    return collate(SpuriousScenes(count, **arguments).__getitems__(range(count)))


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95, 1.0])
def test_the_class_has_its_own_background_as_often_as_asked(correlation):
    count = 4096
    objects = drawn(count, correlation=correlation, image_size=16).objects
    label, background = objects["class"][:, 0], objects["background"][:, 0]
    own = (background == label % 2).float().mean().item()
    assert own == pytest.approx(correlation, abs=4 * (correlation * (1 - correlation) / count) ** 0.5)
    shares = torch.bincount(label, minlength=4) / count
    assert shares.numpy() == pytest.approx(0.25, abs=4 * (0.1875 / count) ** 0.5)


def test_other_backgrounds_are_equally_likely():
    three = [PlainBackground(), NoiseBackground(), GradientBackground()]
    objects = drawn(4096, correlation=0.4, image_size=16, backgrounds=three).objects
    away = (objects["background"][:, 0] - objects["class"][:, 0]) % 3
    shares = torch.bincount(away, minlength=3) / 4096
    assert shares.numpy() == pytest.approx([0.4, 0.3, 0.3], abs=4 * 0.49 / 64)


@pytest.mark.parametrize("backgrounds", [None, [PlainBackground(), NoiseBackground(), GradientBackground()]])
def test_balanced_blocks_hold_every_group_equally_often(backgrounds):
    kinds = 2 if backgrounds is None else 3
    scenes = SpuriousScenes(480, block=48, correlation=None, backgrounds=backgrounds, image_size=16)
    objects = collate(scenes.__getitems__(range(480))).objects
    group = objects["group"][:, 0].view(10, 48)
    counts = torch.stack([torch.bincount(block, minlength=4 * kinds) for block in group])
    assert (counts == 48 // (4 * kinds)).all()
    assert not torch.equal(group[0], group[1]), "the order inside a block must not be fixed"
    assert len(scenes.group_names) == 4 * kinds


def test_labels_belong_to_the_image_and_shapes_to_the_columns():
    scenes = SpuriousScenes(512, num_distractors=(0, 2), separation=0.3, scales=(0.2,))
    batch = collate(scenes.__getitems__(range(512)))
    objects = batch.objects
    for name in ("class", "background", "group"):
        assert objects[name].shape == (512, 3)
        assert (objects[name] == objects[name][:, :1]).all()
    assert torch.equal(objects["group"], 2 * objects["class"] + objects["background"])
    shape = objects["shape"]
    assert torch.equal(
        torch.tensor([SHAPES.index(name) for name in scenes.classes])[objects["class"][:, 0]], shape[:, 0]
    )
    assert set(shape[:, 1:].unique().tolist()) == {4, 5}
    present = objects["visible"].sum(1)
    assert torch.bincount(present, minlength=4)[1:].numpy() / 512 == pytest.approx(1 / 3, abs=4 * 0.471 / 512**0.5)


def test_the_background_drawn_is_the_one_named():
    plain_or_noise = [PlainBackground(), NoiseBackground()]
    batch = drawn(256, backgrounds=plain_or_noise, correlation=0.5)
    outside = (batch.segmentation == 0)[:, None]
    high = batch.images.float().masked_fill(~outside, 0).amax((1, 2, 3))
    values = batch.images.float()
    spread = values.masked_fill(~outside, 0).amax((2, 3)) - values.masked_fill(~outside, 255).amin((2, 3))
    assert (high > 0).all()
    assert torch.equal((spread > 0).any(1), batch.objects["background"][:, 0] == 1)


def test_the_object_is_always_seen_and_its_mask_exact():
    batch = drawn(2048)
    assert batch.objects["visible"][:, 0].all()
    area = (batch.segmentation == 1).flatten(1).sum(1) / 48**2
    square = batch.objects["scale"][:, 0] ** 2
    # Part of a star or triangle may lie beyond the frame, or behind a distractor; most objects are whole.
    assert (area > 0.5 * square).all()
    assert ((area - square).abs() < 0.05 * square).float().mean() > 0.6


def test_colors_and_patterns_do_not_tell_the_class():
    objects = drawn(4096, image_size=16).objects
    table = torch.zeros(4, 4).index_put_(
        (objects["class"][:, 0], objects["color"][:, 0]), torch.ones(4096), accumulate=True
    )
    assert table.numpy() / 4096 == pytest.approx(1 / 16, abs=4 * (0.0586 / 4096) ** 0.5)


def test_an_item_depends_on_seed_and_index_alone():
    forward = SpuriousScenes(100, seed=3).__getitems__(range(100))
    backward = SpuriousScenes(200, seed=3)
    for index in (99, 31, 32, 0):
        item = backward[index]
        assert all(torch.equal(item[name], forward[index][name]) for name in item)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"correlation": 1.5}, r"correlation must be in \[0, 1\] or None"),
        ({"correlation": None, "block": 20}, "a balanced block must be a multiple of 8 groups"),
        ({"classes": ["square"]}, "at least two classes"),
        ({"classes": ["square", "square"]}, "at least two classes"),
        ({"backgrounds": [TextureBackground()]}, "two backgrounds"),
        ({"distractors": ["circle"]}, "a class or a distractor, not both"),
        ({"distractors": ["heart"]}, "distractors must be among"),
        ({"num_distractors": (2, 1)}, "0 <= fewest <= most"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpuriousScenes(32, **arguments)

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from matplotlib.path import Path
from torch.utils.data import Dataset

from ocl.data.backgrounds import GradientBackground, NoiseBackground, PlainBackground, TextureBackground
from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.sprites import SHAPES, SpriteRenderer, polygon
from ocl.data.textured_scenes import TexturedScenes
from ocl.describe import plain_attributes

KINDS = [GradientBackground(), TextureBackground(), NoiseBackground(), PlainBackground()]


def drawn(count=256, **arguments):
    batch = collate(TexturedScenes(count, **arguments).__getitems__(range(count)))
    return batch.images, batch.segmentation, batch.objects


def behind(images, segmentation):
    """(n 3) mean and (n 3) range of the background's pixels, in 0..255."""
    outside = (segmentation == 0)[:, None]
    values = images.float()
    mean = (values * outside).sum((2, 3)) / outside.sum((2, 3))
    high = values.masked_fill(~outside, 0).amax((2, 3))
    return mean, high - values.masked_fill(~outside, 255).amin((2, 3))


@pytest.mark.parametrize("background", KINDS, ids=repr)
def test_contrast_changes_the_pixels_of_objects_and_no_others(background):
    weak, strong = (drawn(64, backgrounds=[background], contrast=contrast) for contrast in (0.3, 0.9))
    assert torch.equal(weak[1], strong[1])
    changed = (weak[0] != strong[0]).any(dim=1)
    assert torch.equal(changed, weak[1] > 0)


def test_masks_are_those_of_the_outlines():
    """Each pixel cut into 10 x 10: it belongs to the last object that covers most of it."""
    _, segmentation, objects = drawn(32, image_size=48, separation=0.1, shapes=SHAPES)
    fine = (np.arange(480) + 0.5) / 480
    points = np.stack(np.meshgrid(fine, fine), axis=-1).reshape(-1, 2)
    clear = 0
    for scene in range(32):
        owner, unsure = np.zeros((48, 48)), np.zeros((48, 48), bool)
        for m in range(6):
            if not objects["visible"][scene, m]:
                continue
            outline = polygon(int(objects["shape"][scene, m])) * [1, -1] * float(objects["scale"][scene, m])
            outline = outline + objects["position"][scene, m].numpy()
            inside = Path(outline).contains_points(points).reshape(48, 10, 48, 10).mean(axis=(1, 3))
            unsure = (unsure & (inside < 0.7)) | ((inside > 0.3) & (inside < 0.7))
            owner[inside >= 0.7] = m + 1
        np.testing.assert_array_equal(segmentation[scene].numpy()[~unsure], owner[~unsure])
        clear += (~unsure).sum()
    assert clear / (32 * 48 * 48) > 0.96


def test_full_contrast_shows_the_pure_colors():
    images, segmentation, objects = drawn(contrast=1.0, object_texture=0.0)
    palette = torch.from_numpy(SpriteRenderer.palette).to(torch.uint8)
    scene, y, x = (segmentation > 0).nonzero(as_tuple=True)
    column = segmentation[scene, y, x] - 1
    assert torch.equal(images[scene, :, y, x], palette[objects["color"][scene, column]])


def test_contrast_is_the_share_of_the_way_from_the_mean_background():
    arguments = {"backgrounds": [PlainBackground()], "object_texture": 0.0}
    images, segmentation, objects = drawn(64, contrast=0.25, **arguments)
    mean, spread = behind(images, segmentation)
    assert not spread.any()
    palette = torch.from_numpy(SpriteRenderer.palette)
    scene, y, x = (segmentation > 0).nonzero(as_tuple=True)
    pure = palette[objects["color"][scene, segmentation[scene, y, x] - 1]]
    expected = 0.75 * mean[scene] + 0.25 * pure
    assert (images[scene, :, y, x] - expected).abs().max() <= 1.0 + 1e-3  # both are rounded


@pytest.mark.parametrize("colors_per_image", [1, 2, 3, 4])
def test_objects_share_colors(colors_per_image):
    count = 1024
    _, _, objects = drawn(count, colors_per_image=colors_per_image, separation=0.2, image_size=32)
    present, color = objects["visible"], objects["color"]
    held = torch.nn.functional.one_hot(color, 4).masked_fill(~present[..., None], 0).sum(1)  # (n 4)
    different = (held > 0).sum(1)
    number = present.sum(1)
    assert torch.equal(different, number.clamp(max=colors_per_image))
    least, most = held.masked_fill(held == 0, 99).amin(1), held.amax(1)
    assert (most - least <= 1).all()
    if colors_per_image == 2:
        assert (most >= 2).all()  # three or more objects in two colours
    share = (held > 0).float().mean(0)
    assert share.numpy() == pytest.approx(np.full(4, different.float().mean().item() / 4), abs=4 * 0.5 / count**0.5)


def test_colors_are_among_those_given():
    _, _, objects = drawn(colors=["pink", "cyan", "red"], colors_per_image=2)
    assert set(objects["color"].unique().tolist()) == {3, 4, 6}


@pytest.mark.parametrize("texture", [0.0, 0.3, 1.0])
def test_texture_bounds_the_background(texture):
    images, segmentation, _ = drawn(texture=texture)
    _, spread = behind(images, segmentation)
    assert spread.max() <= 255 * texture + 1
    assert spread.amax(1).mean() >= 255 * texture * 0.8
    images, segmentation, _ = drawn(texture=texture, backgrounds=[PlainBackground()])
    corner = images[:, :, 0, 0][segmentation[:, 0, 0] == 0].float() / 255
    assert corner.min() >= texture / 2 - 1 / 255
    assert corner.max() <= 1 - texture / 2 + 1 / 255
    assert corner.mean().item() == pytest.approx(0.5, abs=0.05)


def test_backgrounds_are_drawn_alike():
    images, segmentation, _ = drawn(1024, image_size=32, backgrounds=[PlainBackground(), NoiseBackground()])
    plain = (behind(images, segmentation)[1] == 0).all(1).float().mean().item()
    assert plain == pytest.approx(0.5, abs=4 * 0.5 / 32)


def test_defaults_are_hard():
    """The background varies more than most objects differ from it, and no object is lost in it."""
    images, segmentation, objects = drawn(512)
    values = images.float() / 255
    mean, spread = behind(images, segmentation)
    assert (spread.amax(1) / 255).median() > 0.5
    away = []
    for m in range(6):
        mask = (segmentation == m + 1)[:, None]
        own = (values * mask).sum((2, 3)) / mask.sum((2, 3)).clamp(min=1)
        away.append((own - mean / 255).norm(dim=1)[objects["visible"][:, m]])
    distance = torch.cat(away)
    assert distance.min() > 0.15
    assert (distance < (spread.norm(dim=1) / 255).median()).float().mean() > 0.5


def test_object_texture_is_bounded_and_only_on_objects():
    smooth, segmentation, _ = drawn(64, object_texture=0.0)
    rough, _, _ = drawn(64, object_texture=0.2)
    difference = (rough.int() - smooth.int()).abs()
    inside = (segmentation > 0)[:, None].expand_as(difference)
    assert not difference[~inside].any()
    assert 0 < difference[inside].max() <= 0.2 * 255 + 1
    assert (difference[inside] > 0).float().mean() > 0.8


def test_visible_says_who_has_a_pixel():
    hidden = 0
    for arguments in ({}, {"separation": 0.0, "scales": [0.1, 0.4], "shapes": ["square"], "num_objects": (6, 6)}):
        _, segmentation, objects = drawn(**arguments)
        labels = (segmentation[:, None] == torch.arange(1, 7)[:, None, None]).flatten(2).any(-1)
        assert torch.equal(labels, objects["visible"])
        hidden += (~labels).sum() if arguments else 0
    assert hidden > 0
    counts = drawn(1024, image_size=32, separation=0.2)[2]["visible"].sum(1)
    assert torch.bincount(counts)[3:].numpy() / 1024 == pytest.approx(np.full(4, 0.25), abs=4 * 0.5 / 32)


def test_an_item_depends_on_seed_and_index_alone():
    forward = TexturedScenes(100, seed=3).__getitems__(range(100))
    backward = TexturedScenes(200, seed=3)
    for index in (99, 31, 32, 0):
        item = backward[index]
        assert all(torch.equal(item[name], forward[index][name]) for name in item)
    images = torch.stack([item["images"] for item in forward + TexturedScenes(100, seed=4).__getitems__(range(100))])
    assert len(images.flatten(1).unique(dim=0)) == 200


@pytest.mark.parametrize("image_size", [32, 48])
def test_image_size_changes_pixels_only(image_size):
    small, large = TexturedScenes(32, image_size=image_size)[5], TexturedScenes(32)[5]
    assert small["images"].shape == (3, image_size, image_size)
    assert all(torch.equal(small[name], large[name]) for name in ("position", "shape", "color", "scale", "visible"))


def test_places_and_shapes_are_those_of_sprite_scenes():
    textured, plain = TexturedScenes(32, seed=2), SpriteScenes(32, seed=2, num_objects=(3, 6))
    for name in ("segmentation", "visible", "position", "shape", "scale"):
        assert all(torch.equal(textured[i][name], plain[i][name]) for i in range(32))


def test_a_config_composes_it_and_its_settings_tell_variants_apart():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--data", type=Dataset)
    backgrounds = [
        {"class_path": "ocl.data.backgrounds.TextureBackground", "init_args": {"cycles": [2, 3]}},
        {"class_path": "ocl.data.backgrounds.PlainBackground"},
    ]
    node = {
        "class_path": "ocl.data.textured_scenes.TexturedScenes",
        "init_args": {"size": 8, "backgrounds": backgrounds},
    }
    built = parser.instantiate_classes(parser.parse_object({"data": node})).data
    same = TexturedScenes(8, backgrounds=[TextureBackground((2, 3)), PlainBackground()])
    assert torch.equal(built[3]["images"], same[3]["images"])
    assert plain_attributes(built) == plain_attributes(same) != plain_attributes(TexturedScenes(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors_per_image": 5}, r"colors_per_image must be in 1\.\.4"),
        ({"colors_per_image": 0}, r"colors_per_image must be in 1\.\.4"),
        ({"colors": ["red", "red"]}, r"colors_per_image must be in 1\.\.1"),
        ({"backgrounds": []}, "backgrounds must name at least one"),
        ({"texture": 1.1}, r"texture must be in \[0, 1\]"),
        ({"contrast": 0.0}, r"contrast in \(0, 1\]"),
        ({"object_texture": 1.0}, r"object_texture in \[0, 1\)"),
        ({"contrast": float("nan")}, "got 0.6, nan and 0.1"),
        ({"colors": ["mauve"]}, "TexturedScenes: colors must be among"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TexturedScenes(10, **arguments)

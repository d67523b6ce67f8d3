from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.sprites import COLORS, SHAPES, SpriteRenderer

RECIPE = Path(__file__).parents[3] / "datasets" / "sprite_scenes" / "recipe.yaml"


def test_default_scenes_are_those_of_the_card():
    scenes = SpriteScenes(640)
    batch = collate(scenes.__getitems__(range(640)))
    assert batch.images.shape == (640, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    objects = batch.objects
    assert objects["position"].shape == (640, 5, 2)
    for name, count in (("shape", 4), ("color", 4)):
        frequency = torch.bincount(objects[name].flatten(), minlength=7) / 3200
        assert frequency[:count].numpy() == pytest.approx(np.full(count, 1 / count), abs=0.04)
        assert frequency[count:].sum() == 0
    assert set(objects["scale"].unique().tolist()) == {np.float32(0.15).item(), np.float32(0.22).item()}
    distance = torch.cdist(objects["position"], objects["position"]) + torch.eye(5)
    assert 0.15 - 1e-6 <= distance.min() < 0.16
    margin = objects["scale"][..., None] / 2
    assert (objects["position"] >= margin - 1e-6).all()
    assert (objects["position"] <= 1 - margin + 1e-6).all()
    assert objects["position"].mean(dim=(0, 1)).numpy() == pytest.approx([0.5, 0.5], abs=0.02)


def test_labels_say_what_the_pixels_show():
    batch = collate(SpriteScenes(64, seed=4, separation=0.0).__getitems__(range(64)))
    assert batch.segmentation is not None
    present = (batch.segmentation[:, None] == torch.arange(1, 6)[:, None, None]).flatten(2)  # (B M HW)
    assert torch.equal(present.any(-1), batch.objects["visible"])
    palette = torch.from_numpy(SpriteRenderer.palette)
    pixels = batch.images.permute(0, 2, 3, 1).float()
    right = []
    for scene, column in batch.objects["visible"].nonzero().tolist():
        inside = pixels[scene][batch.segmentation[scene] == column + 1]
        nearest = torch.cdist(inside, palette).argmin(dim=1).mode().values
        right.append(bool(nearest == batch.objects["color"][scene, column]))
    assert np.mean(right) > 0.97  # where a sliver peeps out behind another object, all its pixels may be blends
    index = (torch.arange(64) + 0.5) / 64
    alone = collate(SpriteScenes(64, num_objects=(1, 1), shapes=["square", "circle"]).__getitems__(range(64)))
    mask = (alone.segmentation == 1).float()
    centre = (
        torch.stack([(mask.sum(1) * index).sum(1), (mask.sum(2) * index).sum(1)], dim=1) / mask.sum((1, 2))[:, None]
    )
    assert (centre - alone.objects["position"][:, 0]).abs().max() < 0.6 / 64


def test_number_of_objects_varies_and_absent_ones_are_invisible():
    batch = collate(SpriteScenes(512, num_objects=(3, 6), separation=0.2).__getitems__(range(512)))
    visible = batch.objects["visible"]
    assert visible.shape == (512, 6)
    counts = visible.sum(1)
    assert torch.bincount(counts, minlength=7)[3:].numpy() / 512 == pytest.approx(np.full(4, 0.25), abs=0.08)
    assert torch.equal(visible, torch.arange(6) < counts[:, None])


def test_full_occlusion_makes_an_object_invisible():
    scenes = SpriteScenes(256, scales=[0.1, 0.4], num_objects=(6, 6), shapes=["square"], separation=0.0)
    visible = collate(scenes.__getitems__(range(256))).objects["visible"]
    assert visible[:, -1].all()
    assert not visible.all()


def test_an_item_depends_on_seed_and_index_alone():
    forward = SpriteScenes(100, seed=3).__getitems__(range(100))
    backward = SpriteScenes(200, seed=3)
    for index in (99, 31, 32, 0):
        item = backward[index]
        assert all(torch.equal(item[name], forward[index][name]) for name in item)
    assert not torch.equal(SpriteScenes(100, seed=4)[0]["images"], forward[0]["images"])


@pytest.mark.parametrize("image_size", [32, 96])
def test_image_size_changes_pixels_only(image_size):
    small, large = SpriteScenes(32, image_size=image_size)[5], SpriteScenes(32)[5]
    assert small["images"].shape == (3, image_size, image_size)
    assert all(torch.equal(small[name], large[name]) for name in ("position", "shape", "color", "scale"))


def test_the_recipe_builds_its_splits_and_shifts():
    recipe = yaml.safe_load(RECIPE.read_text())
    module, name = recipe["class_path"].rsplit(".", 1)
    build = getattr(import_module(module), name)
    firsts = [build(**split)[0]["images"] for split in recipe["splits"].values()]
    assert not any(torch.equal(firsts[i], firsts[j]) for i in range(3) for j in range(i))
    for shift in recipe["shifts"].values():
        item = build(**recipe["splits"]["test"], **shift)[0]
        for argument, known in (("shapes", SHAPES), ("colors", COLORS)):
            if argument in shift:
                assert {known[index] for index in item[argument[:-1]]} <= set(shift[argument])
        if "num_objects" in shift:
            assert len(item["visible"]) == shift["num_objects"][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": ["mauve"]}, "colors"),
        ({"shapes": []}, "shapes"),
        ({"num_objects": (4, 3)}, "num_objects"),
        ({"scales": [0.0]}, "scales"),
        ({"separation": -0.1}, "separation"),
        ({"image_size": 0}, "size"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SpriteScenes(10, **arguments)


def test_objects_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no room for object"):
        SpriteScenes(32, num_objects=(5, 5), separation=0.7)[0]

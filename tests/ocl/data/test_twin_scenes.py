from itertools import combinations

import numpy as np
import pytest
import torch

from ocl.data.backgrounds import PlainBackground
from ocl.data.collate import collate
from ocl.data.twin_scenes import CLASSES, TwinScenes
from ocl.shapes import Batch

PATCH = 8


def scenes(count: int, **arguments) -> Batch:
    return collate(TwinScenes(count, **arguments).__getitems__(range(count)))


def twins(batch: Batch):
    """(scene, column, column, (dx, dy) in pixels) of every visible pair of one class."""
    category, visible = batch.objects["class"], batch.objects["visible"]
    pixel = (batch.objects["position"] * batch.images.shape[-1]).round().long()
    for scene in range(len(batch)):
        for a, b in combinations(visible[scene].nonzero().flatten().tolist(), 2):
            if category[scene, a] == category[scene, b]:
                yield scene, a, b, (pixel[scene, b] - pixel[scene, a]).tolist()


@pytest.mark.parametrize("arguments", [{}, {"lattice": PATCH}, {"image_size": 96, "object_texture": 0.0}])
def test_twins_are_equal_pixel_by_pixel(arguments):
    batch = scenes(96, **arguments)
    assert batch.segmentation is not None
    shared, own = [], []
    for scene, a, b, (dx, dy) in twins(batch):
        labels, image = batch.segmentation[scene], batch.images[scene]
        y, x = (labels == a + 1).nonzero(as_tuple=True)
        inside = (y + dy >= 0) & (y + dy < len(labels)) & (x + dx >= 0) & (x + dx < len(labels))
        inside[inside.clone()] &= labels[y[inside] + dy, x[inside] + dx] == b + 1
        y, x = y[inside], x[inside]
        assert torch.equal(image[:, y, x], image[:, y + dy, x + dx])
        shared.append(len(y))
        own.append(int((labels == a + 1).sum()))
    assert len(own) >= 96
    assert sum(shared) > 0.8 * sum(own)  # the rest is hidden by other objects or cut off by the frame


def test_on_the_lattice_twins_share_whole_patches():
    batch = scenes(64, lattice=PATCH)
    patches = batch.images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
    labels = batch.segmentation.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # (B h w P P)
    equal = 0
    for scene, a, b, (dx, dy) in twins(batch):
        assert dx % PATCH == dy % PATCH == 0
        whole = [(labels[scene] == column + 1).all(-1).all(-1) for column in (a, b)]
        for y, x in whole[0].nonzero().tolist():
            there = (y + dy // PATCH, x + dx // PATCH)
            if max(there) < len(whole[1]) and min(there) >= 0 and whole[1][there]:
                assert torch.equal(patches[scene, y, x], patches[scene, *there])
                equal += 1
    assert equal > 64


def test_every_scene_holds_twins_and_the_labels_agree():
    batch = scenes(320)
    objects = batch.objects
    count = objects["visible"].sum(1)
    assert torch.bincount(count, minlength=6)[3:6].numpy() / 320 == pytest.approx(np.full(3, 1 / 3), abs=0.08)
    different = torch.tensor(
        [len(row[seen].unique()) for row, seen in zip(objects["class"], objects["visible"], strict=True)]
    )
    assert (different == 2).all()
    names = [CLASSES[number] for number in objects["class"].flatten()]
    shapes, colors = TwinScenes.categories["shape"], TwinScenes.categories["color"]
    pairs = zip(objects["color"].flatten(), objects["shape"].flatten(), strict=True)
    assert names == [f"{colors[color]} {shapes[shape]}" for color, shape in pairs]
    assert len(objects["class"].unique()) == 16
    assert batch.segmentation is not None
    assert torch.equal(
        (batch.segmentation[:, None] == torch.arange(1, 6)[:, None, None]).flatten(2).any(-1), objects["visible"]
    )
    distance = torch.cdist(objects["position"], objects["position"]) + torch.eye(5)
    assert distance.min() >= 0.28 - 1e-6


def test_plain_backgrounds_and_pure_colors_show_the_palette():
    batch = scenes(32, backgrounds=[PlainBackground()], texture=1.0, contrast=1.0, object_texture=0.0)
    palette = torch.from_numpy(TwinScenes(1).renderer.palette)
    assert batch.segmentation is not None
    for scene, column in batch.objects["visible"].nonzero().tolist():
        pixels = batch.images[scene][:, batch.segmentation[scene] == column + 1].float()
        assert (pixels == palette[batch.objects["color"][scene, column]][:, None]).all()
    behind = batch.images.movedim(1, -1)[batch.segmentation == 0]
    assert behind.unique().tolist() == [128]


def test_an_item_depends_on_seed_and_index_alone():
    forward, backward = TwinScenes(100, seed=3).__getitems__(range(100)), TwinScenes(200, seed=3)
    for index in (99, 31, 32, 0):
        item = backward[index]
        assert all(torch.equal(item[name], forward[index][name]) for name in item)
    assert not torch.equal(TwinScenes(100, seed=4)[0]["images"], forward[0]["images"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": ["mauve"]}, "colors"),
        ({"shapes": []}, "shapes"),
        ({"num_objects": (4, 3)}, "num_objects"),
        ({"kinds": 17}, r"kinds must be in 1\.\.16"),
        ({"scales": [0.0]}, "scales"),
        ({"separation": 1.0}, "separation"),
        ({"lattice": 0}, "lattice"),
        ({"object_texture": 1.0}, "object_texture"),
        ({"backgrounds": []}, "backgrounds"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TwinScenes(10, **arguments)


def test_objects_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no room for 5 objects"):
        TwinScenes(32, separation=0.7)[0]
    with pytest.raises(TypeError, match="must be built"):
        TwinScenes(32, backgrounds=["noise"])

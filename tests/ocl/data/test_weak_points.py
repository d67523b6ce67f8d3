import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from ocl.data.collate import collate
from ocl.data.module import SceneDataModule
from ocl.data.order import EpochBatches
from ocl.data.scenes import Scenes
from ocl.data.textured_scenes import TexturedScenes
from ocl.data.weak_points import WeakPoints
from ocl.describe import describe_dataset


class Dots(Scenes):
    """Three objects per scene, the last hidden in every other one; "number" tells scenes apart."""

    image_size = (4, 5)
    max_objects = 3
    categories = {"shape": ("dot", "dash")}
    drawn = 0

    def generate(self, generator, count):
        self.drawn += 1
        visible = np.ones((count, 3), bool)
        visible[::2, 2] = False
        return {
            "images": np.zeros((count, 3, 4, 5), np.uint8),
            "segmentation": np.zeros((count, 4, 5), np.uint8),
            "visible": visible,
            "position": generator.random((count, 3, 2), dtype=np.float32),
            "number": generator.random((count, 1)),
        }


class Listed(Dataset):
    """Neither blocks nor reading of several items at once."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def everything(dataset):
    return collate(dataset.__getitems__(range(len(dataset)))).objects


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("seed", range(5))
def test_a_tenth_of_a_thousand_images_and_three_quarters_of_their_points(seed):
    scenes = TexturedScenes(1000, image_size=32)
    points = WeakPoints(scenes, 0.1, 0.75, labelled_share=None, seed=seed)
    assert len(points) == 1000
    assert len(np.unique(points.labelled_ids)) == 100
    objects = everything(points)
    labelled = torch.zeros(1000, dtype=torch.bool)
    labelled[torch.from_numpy(points.labelled_ids)] = True
    known, visible = objects["point_known"], objects["visible"]
    assert not known[~labelled].any()
    assert not known[~visible].any()
    standard_error = (0.75 * 0.25 / visible[labelled].sum().item()) ** 0.5
    assert known[labelled].sum() / visible[labelled].sum() == pytest.approx(0.75, abs=4 * standard_error)


def test_three_quarters_to_two_per_cent():
    """Of 1,000 images, over seeds: one draw of some 250 points is only good to 3 per cent."""
    known = visible = 0
    for seed in range(20):
        points = WeakPoints(Dots(1000), 0.1, 0.75, None, seed)
        objects = collate(points.__getitems__(points.labelled_ids.tolist())).objects
        known, visible = known + objects["point_known"].sum(), visible + objects["visible"].sum()
    assert (known / visible).item() == pytest.approx(0.75, abs=0.02)


def test_known_points_are_positions_and_unknown_ones_tell_nothing():
    objects = everything(WeakPoints(Dots(400), 0.5))
    points, known = objects["points"], objects["point_known"]
    assert points.dtype == torch.float32
    assert points.shape == (len(points), 3, 2)
    assert torch.equal(points[known], objects["position"][known])
    assert not points[~known].any()


def test_the_choice_is_fixed_by_the_seed():
    first, again, other = (WeakPoints(Dots(300), 0.2, 0.5, seed=seed) for seed in (1, 1, 2))
    once, twice = everything(first), everything(first)
    assert same(once, twice)
    assert same(once, everything(again))
    assert same(once, everything(pickle.loads(pickle.dumps(first))))
    for index in (399, 7, -1, 120):
        item = first[index]
        assert torch.equal(item["point_known"], once["point_known"][index])
        assert torch.equal(item["number"], once["number"][index])
    assert set(first.labelled_ids) != set(other.labelled_ids)
    # An image's labels are the same wherever it stands in the epoch.
    by_number = {}
    for number, known in zip(once["number"].flatten().tolist(), once["point_known"], strict=True):
        assert torch.equal(by_number.setdefault(number, known), known)
    assert len(by_number) == 300


def test_none_and_all():
    none = WeakPoints(Dots(100), 0.0)
    assert len(none) == 100
    assert none.block == 32
    assert not everything(none)["point_known"].any()
    everyone = everything(WeakPoints(Dots(100), 1.0, 1.0, None))
    assert torch.equal(everyone["point_known"], everyone["visible"])


@pytest.mark.parametrize(("share", "extra"), [(0.25, 1 / 3), (0.1, 1 / 9), (1 / 3, 1 / 2), (0.5, 1.0), (0.75, 3.0)])
@pytest.mark.parametrize("size", [1000, 997])
def test_an_epoch_holds_every_image_and_the_share_of_labelled_ones(share, extra, size):
    points = WeakPoints(Dots(size), 0.1, labelled_share=share)
    assert len(points) == int(size * (1 + extra) + 1e-6)
    inner = np.array([points.inner_index(index) for index in range(len(points))])
    counts = np.bincount(inner, minlength=size)
    unlabelled = np.setdiff1d(np.arange(size), points.labelled_ids)
    assert (counts[unlabelled] == 1).all()
    added = counts[points.labelled_ids] - 1
    assert added.sum() == len(points) - size
    assert added.max() - added.min() <= 1


@pytest.mark.parametrize(("share", "batch_size"), [(0.25, 64), (0.25, 20), (0.5, 30), (0.1, 40)])
def test_every_batch_holds_the_share(share, batch_size):
    scenes = Listed([{**item, "index": torch.tensor(i)} for i, item in enumerate(Dots(640)[i] for i in range(640))])
    points = WeakPoints(scenes, 0.1, labelled_share=share)
    period = round(1 / share)
    assert points.block == period
    for batch in list(EpochBatches(len(points), batch_size, run=points.block))[:5]:
        added = [index for index in batch if index % period == period - 1]
        assert len(added) == round(batch_size * share)
        assert {int(points[index]["index"]) for index in added} <= set(points.labelled_ids.tolist())
        others = sorted(points.inner_index(index) for index in set(batch) - set(added))
        assert others == sorted({index - index // period for index in set(batch) - set(added)})


def test_blocks_are_drawn_about_as_often_as_without():
    scenes = Dots(6400)
    points = WeakPoints(scenes, 0.1, labelled_share=0.25)
    assert points.block == 128
    assert points.max_objects == 3
    assert points.image_size == (4, 5)
    assert points.categories == Dots.categories
    scenes.drawn = 0
    order = EpochBatches(len(points), 64, run=points.block)
    for batch in order:
        points.__getitems__(batch)
    assert scenes.drawn < 1.3 * len(points) / 32


def test_labelled_images_come_in_whole_blocks_or_one_by_one():
    ids = WeakPoints(Dots(6400), 0.1).labelled_ids
    assert (np.bincount(ids // 32)[np.unique(ids // 32)] == 32).all()
    items = Dots(640).__getitems__(range(640))
    single = WeakPoints(Listed(items), 0.1).labelled_ids
    assert len(single) == 64
    assert len(np.unique(single // 32)) > 15


def test_points_outside_the_image_are_not_known():
    items = [
        {
            "images": torch.zeros(3, 4, 4, dtype=torch.uint8),
            "visible": torch.ones(4, dtype=torch.bool),
            "position": torch.tensor([[0.0, 1.0], [-0.01, 0.5], [0.5, 1.01], [float("nan"), 0.5]]),
        }
    ]
    item = WeakPoints(Listed(items), 1.0, 1.0, None)[0]
    assert item["point_known"].tolist() == [True, False, False, False]
    assert not item["points"][1:].any()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_data_module_reads_it(workers):
    points = WeakPoints(TexturedScenes(96, image_size=32), 0.5)
    data = SceneDataModule(points, val=points, batch_size=32, num_workers=workers)
    batches = list(data.train_dataloader())
    assert len(batches) == 4
    assert all(batch.objects["points"].shape == (32, 6, 2) for batch in batches)
    assert all(batch.objects["point_known"].any() for batch in batches)
    serial = list(DataLoader(points, batch_size=32, collate_fn=collate))
    read = list(data.val_dataloader())
    assert all(same(a.objects, b.objects) for a, b in zip(read, serial, strict=True))


def test_its_description_names_the_set_inside():
    settings = [
        describe_dataset(WeakPoints(TexturedScenes(64, seed=seed), fraction)) for seed in (0, 1) for fraction in (0, 1)
    ]
    assert all(a != b for i, a in enumerate(settings) for b in settings[:i])
    assert settings[0]["dataset"]["class"] == "ocl.data.textured_scenes.TexturedScenes"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_fraction": -0.1}, r"image_fraction must be in \[0, 1\], got -0.1"),
        ({"image_fraction": 1.5}, r"image_fraction must be in \[0, 1\], got 1.5"),
        ({"image_fraction": float("nan")}, "image_fraction must be in"),
        ({"image_fraction": 0.001}, "a fraction of 0.001 of 100 images labels none"),
        ({"object_probability": 0.0}, "object_probability must be above 0"),
        ({"object_probability": 1.1}, "object_probability must be above 0 and at most 1"),
        ({"labelled_share": 0.0}, r"labelled_share must be in \[0.01, 0.99\] or None"),
        ({"labelled_share": 1.0}, r"labelled_share must be in \[0.01, 0.99\] or None"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WeakPoints(Dots(100), **arguments)


def test_items_without_positions_are_refused():
    with pytest.raises(ValueError, match='needs items with "position" and "visible"; these hold images'):
        WeakPoints(Listed([{"images": torch.zeros(3, 4, 4)}] * 10))


def test_index_outside_is_refused():
    points = WeakPoints(Dots(100))
    for index in (len(points), -len(points) - 1):
        with pytest.raises(IndexError, match=f"WeakPoints has 133 items; there is none at index {index}"):
            points[index]

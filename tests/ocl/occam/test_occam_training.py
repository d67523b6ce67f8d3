"""What a small classifier is shown, that it learns from it, and that a stopped training goes on bit for bit."""

import pytest
import torch

from ocl.checkpoints import load
from ocl.data.backgrounds import GradientBackground, PlainBackground
from ocl.data.collate import collate
from ocl.data.spurious_scenes import SpuriousScenes
from ocl.masks.apply import GreyCrop
from ocl.masks.classifiers import TimmClassifier
from ocl.occam.ensembles import Published, Trained
from ocl.occam.labels import TrueObject, boxes_of, groups_of, labels_of, main_object
from ocl.occam.training import STATE, Recipe, examples, train
from ocl.shapes import Batch

CLASSES = ("square", "triangle", "star_4", "circle")
SHORT = Recipe(steps=7, batch_size=8, warmup_steps=1, checkpoint_every=2)


def scenes(count=64, **arguments):
    return SpuriousScenes(count, **{"block": 8, "correlation": 0.9, **arguments})


def batch(count=16):
    return collate(scenes().__getitems__(range(count)))


def untrained(seed=0):
    torch.manual_seed(seed)
    return TimmClassifier("test_resnet", CLASSES, image_size=48, pretrained=False)


def test_labels_are_read_from_images_and_from_columns():
    one = batch()
    column = Batch(one.images, one.segmentation, {name: values[:, 0] for name, values in one.objects.items()})
    assert torch.equal(labels_of(one), labels_of(column))
    assert torch.equal(groups_of(one), 2 * labels_of(one) + one.objects["background"][:, 0])
    with pytest.raises(ValueError, match='needs "class" for every image; this data set has none'):
        labels_of(Batch(one.images))
    with pytest.raises(ValueError, match='"group" must be integers'):
        groups_of(Batch(one.images, None, {"group": torch.rand(16)}))


def test_the_object_and_its_box():
    segmentation = torch.zeros(2, 6, 8, dtype=torch.int64)
    segmentation[0, 1:3, 2:7] = 1
    segmentation[0, 3:, :] = 2
    segmentation[1, 5, 7] = 1
    one = Batch(torch.zeros(2, 3, 6, 8), segmentation)
    assert boxes_of(one).tolist() == [[2, 1, 7, 3], [7, 5, 8, 6]]
    assert main_object(one).flatten(1).sum(1).tolist() == [10, 1]
    found = TrueObject()(one)
    assert found.masks.shape == (2, 1, 6, 8)
    assert found.valid.all()
    assert boxes_of(Batch(one.images)) is None
    segmentation[1] = 0
    with pytest.raises(ValueError, match="no pixel with label 1"):
        main_object(one)
    with pytest.raises(ValueError, match="this data set gives none"):
        main_object(Batch(one.images))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_examples_shows_the_object_alone(share):
    one = batch()
    pictures, labels = examples(one, GreyCrop(48), share)
    cut = round(16 * share)
    plain = one.images.float() / 255
    assert torch.equal(labels, one.objects["class"][:, 0])
    torch.testing.assert_close(pictures[cut:], plain[cut:], atol=1e-5, rtol=0)
    alone = GreyCrop(48)(plain, (one.segmentation == 1)[:, None])[:, 0]
    torch.testing.assert_close(pictures[:cut], alone[:cut], atol=0, rtol=0)


class Stops(SpuriousScenes):
    """Raises at a given read, as a killed process would stop."""

    reads = 0

    def __getitems__(self, indices):
        Stops.reads += 1
        if Stops.reads == 6:
            raise KeyboardInterrupt
        return super().__getitems__(indices)


@pytest.mark.parametrize("count", [64, 32])  # of the smaller set, an epoch has four steps
def test_a_stopped_training_goes_on_bit_for_bit(tmp_path, count):
    whole = train(untrained(), scenes(count), GreyCrop(48), SHORT, tmp_path / "whole", seed=3)
    Stops.reads = 0
    halved = Stops(count, block=8, correlation=0.9)
    with pytest.raises(KeyboardInterrupt):
        train(untrained(), halved, GreyCrop(48), SHORT, tmp_path / "halved", seed=3)
    assert (tmp_path / "halved" / STATE).is_file()
    resumed = train(untrained(seed=9), halved, GreyCrop(48), SHORT, tmp_path / "halved", seed=3)
    assert not (tmp_path / "halved" / STATE).is_file()
    other = train(untrained(), scenes(count), GreyCrop(48), SHORT, tmp_path / "other", seed=4)
    weights = whole.state_dict()
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in weights.items())
    assert not all(torch.equal(value, other.state_dict()[name]) for name, value in weights.items())
    assert not any(weight.requires_grad for weight in resumed.parameters())
    assert not resumed.encoder.model.training


def test_it_learns_shapes_that_are_cut_out(tmp_path):
    plain = {"backgrounds": [PlainBackground(), GradientBackground()], "correlation": None, "image_size": 32}
    recipe = Recipe(steps=60, batch_size=32, warmup_steps=10, cut_out=1.0)
    torch.manual_seed(0)
    classifier = TimmClassifier("test_resnet", CLASSES, image_size=32, pretrained=False)
    train(classifier, scenes(1920, block=32, **plain), GreyCrop(32), recipe, tmp_path)
    test = collate(scenes(256, seed=1, block=32, **plain).__getitems__(range(256)))
    pictures, labels = examples(test, GreyCrop(32), 1.0)
    assert (classifier(pictures).argmax(1) == labels).float().mean() > 0.8  # by chance 0.25 ± 0.03


def test_members_differ_are_kept_and_are_not_trained_twice(tmp_path):
    ensemble = Trained(scenes(), CLASSES, members=2, recipe=SHORT)
    first = ensemble(GreyCrop(48), tmp_path / "seed-1", 1)
    written = (tmp_path / "seed-1" / "member-1" / "model.safetensors").stat().st_mtime_ns
    again = ensemble(GreyCrop(48), tmp_path / "seed-1", 1)
    assert (tmp_path / "seed-1" / "member-1" / "model.safetensors").stat().st_mtime_ns == written
    images = torch.rand(4, 3, 48, 48)
    assert torch.equal(first[1](images), again[1](images))
    assert torch.equal(first[1](images), load(tmp_path / "seed-1" / "member-1")(images))
    assert not torch.equal(first[0](images), first[1](images))
    state = torch.get_rng_state()
    third = ensemble(GreyCrop(48), tmp_path / "elsewhere", 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(third[1](images), first[1](images))
    assert Published(list(first))(GreyCrop(48), tmp_path, 7) == list(first)


def test_bad_recipes_are_refused():
    with pytest.raises(ValueError, match="cut_out is a share"):
        Recipe(cut_out=1.5)
    with pytest.raises(ValueError, match="must be at least 1"):
        Recipe(steps=0)
    with pytest.raises(ValueError, match="at least one member"):
        Trained(scenes(), CLASSES, members=0)

"""Property probes on slots whose content is known exactly."""

import dataclasses
import json
import math

import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LinearRegression, LogisticRegression

from ocl.matching import Assignment
from ocl.probes import LabelledSlots, collect, linear_probe, pair_by_masks, probe_properties
from ocl.representations import ObjectEncoder
from ocl.shapes import Batch, Slots

LINEAR = {"linear": linear_probe}


def scenes(count, seed, noise=0.0, slots=7, objects=5, dim=64):
    """Slots that mix the attributes of one object each linearly, in another order in every image, plus empty slots; the
    true pairs are returned beside."""
    g = torch.Generator().manual_seed(seed)
    visible = torch.rand(count, objects, generator=g) < 0.8
    visible[:, 0] = True
    attributes = {
        "position": torch.rand(count, objects, 2, generator=g),
        "scale": 5 + 100 * torch.rand(count, objects, generator=g),
        "shape": torch.randint(0, 3, (count, objects), generator=g),
        "color": torch.randint(0, 4, (count, objects), generator=g),
    }
    content = torch.cat(
        [
            attributes["position"],
            attributes["scale"][..., None] / 100,
            torch.nn.functional.one_hot(attributes["shape"], 3),
            torch.nn.functional.one_hot(attributes["color"], 4),
            torch.ones(count, objects, 1),
        ],
        dim=2,
    )
    mixing = torch.randn(content.shape[2], dim, generator=torch.Generator().manual_seed(99))
    vectors = torch.zeros(count, slots, dim)
    vectors[:, :objects] = content * visible[:, :, None] @ mixing
    vectors += noise * torch.randn(vectors.shape, generator=g)
    order = torch.rand(count, slots, generator=g).argsort(1)
    vectors = vectors.gather(1, order[:, :, None].expand(-1, -1, dim))
    labelled = LabelledSlots(vectors, torch.ones(count, slots, dtype=torch.bool), {"visible": visible, **attributes})
    return labelled, Assignment(order.argsort(1)[:, :objects], visible)


def values(report):
    return {(row.property, row.probe, row.measure): row.value for row in report.rows}


@pytest.fixture(scope="module")
def train():
    return scenes(2000, seed=0)[0]


@pytest.fixture(scope="module")
def test_set():
    return scenes(800, seed=1)[0]


def test_slots_that_hold_the_truth_give_it_up(train, test_set):
    report = probe_properties(train, test_set)
    assert {(row.property, row.measure) for row in report.rows} == {
        ("position", "r2"),
        ("scale", "r2"),
        *(("shape", m) for m in ("accuracy", "balanced_accuracy")),
        *(("color", m) for m in ("accuracy", "balanced_accuracy")),
    }
    assert {row.probe for row in report.rows} == {"linear", "mlp"}
    for row in report.rows:
        assert 0.98 < row.value <= 1
        assert row.shuffled < 0.6
    assert report.objects == int(test_set.visible.sum())


def test_noise_scores_what_chance_scores(train, test_set):
    def noise(slots):
        return dataclasses.replace(slots, vectors=torch.randn(slots.vectors.shape))

    for row in probe_properties(noise(train), noise(test_set)).rows:
        assert abs(row.value - row.shuffled) < 0.03
        assert abs(row.value - row.chance) < (0.03 if row.measure == "r2" else 0.08)


def test_constant_slots_anchored_at_places_are_exposed_by_the_shuffled_column(train, test_set):
    def constant(slots):
        anchors = torch.randn(7, 64, generator=torch.Generator().manual_seed(4))
        return dataclasses.replace(slots, vectors=anchors.expand(len(slots), 7, 64))

    report = probe_properties(constant(train), constant(test_set), names=["position"], probes=LINEAR)
    assert report.value("position", "linear", "r2") > 0.3  # right without having looked at a single image
    assert report.rows[0].shuffled == pytest.approx(report.rows[0].value, abs=1e-6)


def test_one_to_one_is_kinder_to_slots_that_know_little():
    train, test = scenes(1600, seed=2, noise=4.0)[0], scenes(800, seed=3, noise=4.0)[0]
    soft = probe_properties(train, test, probes=LINEAR)
    hard = probe_properties(train, test, probes=LINEAR, one_to_one=True)
    assert (soft.pairing, hard.pairing) == ("likelihood", "optimal assignment")
    assert all(values(hard)[key] > values(soft)[key] for key in values(soft))


def test_chance_is_the_mean_and_the_majority(train, test_set):
    report = probe_properties(train, test_set, probes=LINEAR)
    chance = {(row.property, row.measure): row.chance for row in report.rows}
    seen, expected = train.objects["color"][train.visible], test_set.objects["color"][test_set.visible]
    assert chance["color", "accuracy"] == pytest.approx(float((expected == seen.bincount().argmax()).double().mean()))
    assert chance["color", "balanced_accuracy"] == pytest.approx(1 / 4)
    assert chance["shape", "balanced_accuracy"] == pytest.approx(1 / 3)
    scale = test_set.objects["scale"][test_set.visible].double()
    error = (scale - train.objects["scale"][train.visible].double().mean()).square().sum()
    assert chance["scale", "r2"] == pytest.approx(1 - float(error / (scale - scale.mean()).square().sum()), abs=1e-6)


@pytest.fixture(scope="module")
def noisy():
    """Slots that know their objects in part, with the true pairs."""
    return scenes(2000, seed=5, noise=1.5), scenes(600, seed=6, noise=1.5)


def test_paired_linear_probes_reach_least_squares_and_logistic_regression():
    (train, train_pairs), (test, test_pairs) = scenes(2000, seed=5, noise=3.5), scenes(600, seed=6, noise=3.5)
    report = probe_properties(
        dataclasses.replace(train, pairs=train_pairs), dataclasses.replace(test, pairs=test_pairs), probes=LINEAR
    )
    assert report.pairing == "masks"

    def flat(slots, pairs):
        return slots.vectors.gather(1, pairs.columns[:, :, None].expand(-1, -1, 64))[slots.visible].numpy()

    for name, model, measure in (
        ("position", LinearRegression(), "r2"),
        ("scale", LinearRegression(), "r2"),
        ("color", LogisticRegression(max_iter=1000), "accuracy"),
        ("shape", LogisticRegression(max_iter=1000), "accuracy"),
    ):
        model.fit(flat(train, train_pairs), train.objects[name][train.visible].numpy())
        expected = model.score(flat(test, test_pairs), test.objects[name][test.visible].numpy())
        assert 0.3 < expected < 0.99
        assert report.value(name, "linear", measure) == pytest.approx(expected, abs=0.01)


def test_likelihood_finds_the_pairs_that_masks_would_give(noisy):
    (train, train_pairs), (test, test_pairs) = noisy
    free = probe_properties(train, test, probes=LINEAR)
    given = probe_properties(
        dataclasses.replace(train, pairs=train_pairs), dataclasses.replace(test, pairs=test_pairs), probes=LINEAR
    )
    assert values(free) == pytest.approx(values(given), abs=0.03)


def test_the_order_of_slots_and_of_objects_changes_nothing(noisy):
    (train, _), (test, _) = noisy
    expected = values(probe_properties(train, test, probes=LINEAR))
    orders = torch.rand(len(test), 7).argsort(1)
    permuted = dataclasses.replace(test, vectors=test.vectors.gather(1, orders[:, :, None].expand_as(test.vectors)))
    relabelled = dataclasses.replace(test, objects={name: values.flip(1) for name, values in test.objects.items()})
    for other in (permuted, relabelled):
        assert values(probe_properties(train, other, probes=LINEAR)) == pytest.approx(expected, abs=1e-5)
    orders = torch.rand(len(train), 7).argsort(1)
    permuted = dataclasses.replace(train, vectors=train.vectors.gather(1, orders[:, :, None].expand_as(train.vectors)))
    assert values(probe_properties(permuted, test, probes=LINEAR)) == pytest.approx(expected, abs=5e-3)


def test_invalid_slots_and_hidden_objects_are_never_read(noisy):
    (train, _), (test, _) = noisy

    def polluted(slots):
        """Two invalid slots of NaN more, and arbitrary values where no object is visible."""
        vectors = torch.cat([slots.vectors, torch.full((len(slots), 2, 64), float("nan"))], dim=1)
        valid = torch.cat([slots.valid, torch.zeros(len(slots), 2, dtype=torch.bool)], dim=1)
        objects = dict(slots.objects)
        objects["position"] = objects["position"].masked_fill(~slots.visible[:, :, None], float("nan"))
        objects["color"] = objects["color"].masked_fill(~slots.visible, -7)
        return LabelledSlots(vectors, valid, objects)

    for one_to_one in (False, True):
        expected = values(probe_properties(train, test, probes=LINEAR, one_to_one=one_to_one))
        found = values(probe_properties(polluted(train), polluted(test), probes=LINEAR, one_to_one=one_to_one))
        assert found == pytest.approx(expected, abs=2e-3)


def test_duplicates_do_no_harm(train, test_set):
    def doubled(slots):
        """Every slot twice, and object 1 a copy of object 0."""
        objects = {name: values.clone() for name, values in slots.objects.items()}
        for values in objects.values():
            values[:, 1] = values[:, 0]
        return LabelledSlots(slots.vectors.repeat(1, 2, 1), slots.valid.repeat(1, 2), objects)

    report = probe_properties(doubled(train), doubled(test_set), probes=LINEAR)
    assert all(row.value > 0.98 for row in report.rows)


def test_objects_without_a_slot_count_as_chance():
    train, train_pairs = scenes(1600, seed=7)
    test, test_pairs = scenes(1600, seed=8)
    lost = test_pairs.matched & (torch.arange(5) % 2 == 0)  # columns 0, 2 and 4 lose their slot
    report = probe_properties(
        dataclasses.replace(train, pairs=train_pairs),
        dataclasses.replace(test, pairs=Assignment(test_pairs.columns, test_pairs.matched & ~lost)),
        probes=LINEAR,
    )
    share = float(lost[test.visible].double().mean())
    assert report.value("scale", "linear", "r2") == pytest.approx(1 - share, abs=0.03)
    accuracy_of_chance = next(r.chance for r in report.rows if (r.property, r.measure) == ("color", "accuracy"))
    expected = 1 - share * (1 - accuracy_of_chance)
    assert report.value("color", "linear", "accuracy") == pytest.approx(expected, abs=0.03)


def test_images_without_any_slot_count_as_chance(train, test_set):
    valid = test_set.valid.clone()
    valid[::2] = False
    report = probe_properties(train, dataclasses.replace(test_set, valid=valid), probes=LINEAR)
    assert report.value("position", "linear", "r2") == pytest.approx(0.5, abs=0.03)


def test_classes_that_training_never_showed_are_wrong_answers(train, test_set):
    objects = {name: values.clone() for name, values in test_set.objects.items()}
    objects["color"][:] = 9
    report = probe_properties(train, dataclasses.replace(test_set, objects=objects), probes=LINEAR)
    assert report.value("color", "linear", "accuracy") == 0
    assert report.value("position", "linear", "r2") > 0.98


def test_properties_that_never_vary_are_left_out(train, test_set):
    def constant(slots):
        objects = {"visible": slots.visible, "scale": torch.full_like(slots.objects["scale"], 3.3)}
        position = slots.objects["position"].clone()
        position[..., 1] = 0.25
        return dataclasses.replace(slots, objects={**objects, "position": position})

    report = probe_properties(constant(train), constant(test_set), probes=LINEAR)
    assert {row.property for row in report.rows} == {"position"}
    assert report.rows[0].value > 0.98
    with pytest.raises(ValueError, match="nothing to probe"):
        probe_properties(constant(train), constant(test_set), names=["scale"])


def test_equal_seeds_give_equal_reports_and_leave_the_global_generator_alone(noisy):
    (train, _), (test, _) = noisy
    small = train.take(torch.arange(300))
    state = torch.get_rng_state()
    first = probe_properties(small, test)
    assert torch.get_rng_state().equal(state)
    torch.randn(3)
    assert probe_properties(small, test) == first


class Grid(ObjectEncoder):
    """Four quadrants: mean colour, and the quadrant as mask."""

    num_slots, dim = 4, 3

    def encode(self, batch):
        cells = batch.images.float().unflatten(3, (2, -1)).unflatten(2, (2, -1)).mean((3, 5))  # (B 3 2 2)
        masks = torch.eye(4).view(1, 4, 2, 2).expand(len(batch), 4, 2, 2)
        return Slots.of(cells.flatten(2).mT, masks)

    def describe(self):
        return "Grid"


def quadrants(count):
    """One object in each quadrant at most, columns in random order; attribute: its brightness."""
    cell = torch.rand(count, 4).argsort(1)[:, :3]  # (B M) the quadrant of each object
    visible = torch.rand(count, 3) < 0.7
    visible[:, 0] = True
    brightness = torch.rand(count, 3)
    segmentation, images = torch.zeros(count, 4, dtype=torch.int64), torch.zeros(count, 4)
    for m in range(3):
        b = visible[:, m].nonzero()[:, 0]
        segmentation[b, cell[b, m]] = m + 1
        images[b, cell[b, m]] = brightness[b, m]

    def grow(flat):
        return flat.view(count, 2, 2).repeat_interleave(8, 1).repeat_interleave(8, 2)

    objects = {"visible": visible, "brightness": brightness}
    return Batch(grow(images)[:, None].repeat(1, 3, 1, 1), grow(segmentation), objects), cell


def test_masks_pair_each_object_with_the_slot_that_covers_it():
    batch, cell = quadrants(200)
    slots = Grid()(batch)
    pairs = pair_by_masks(slots.masks, batch.segmentation, batch.objects["visible"], slots.valid)
    assert pairs.matched.equal(batch.objects["visible"])
    assert pairs.columns[pairs.matched].equal(cell[pairs.matched])
    none = pair_by_masks(slots.masks, batch.segmentation, batch.objects["visible"], torch.zeros_like(slots.valid))
    assert not none.matched.any()


@pytest.mark.parametrize("by_masks", [False, True])
def test_any_encoder_from_images_to_report(by_masks, tmp_path):
    train = collect(Grid(), (quadrants(100)[0] for _ in range(10)), by_masks)
    test = collect(Grid(), [quadrants(100)[0] for _ in range(3)], by_masks)
    assert (len(train), len(test)) == (1000, 300)
    report = probe_properties(train, test)
    assert report.value("brightness", "linear", "r2") > 0.98
    stored = json.loads(report.save(tmp_path / "probe.json").read_text())
    assert stored["rows"][0]["value"] == report.rows[0].value
    assert stored["pairing"] == ("masks" if by_masks else "likelihood")
    console = Console(width=120, record=True)
    console.print(report.table())
    text = console.export_text()
    assert "brightness" in text
    assert f"{report.rows[0].value:.3f}" in text


def test_numbers_that_do_not_exist_are_null_in_json(train, test_set):
    objects = {"visible": test_set.visible, "scale": torch.full_like(test_set.objects["scale"], 3.0)}
    short = dataclasses.replace(train, objects={name: train.objects[name] for name in objects})
    report = probe_properties(short, dataclasses.replace(test_set, objects=objects), probes=LINEAR)
    assert math.isnan(report.rows[0].value)
    assert report.as_dict()["rows"][0]["value"] is None


def test_split_is_by_image_and_complete(train):
    first, second = train.split(0.75, seed=3)
    assert (len(first), len(second)) == (1500, 500)
    together = torch.cat([first.vectors, second.vectors]).flatten(1).sum(1).sort().values
    assert together.equal(train.vectors.flatten(1).sum(1).sort().values)
    assert first.vectors.equal(train.split(0.75, seed=3)[0].vectors)


def test_bad_input_is_refused_in_a_sentence(train, test_set):
    with pytest.raises(ValueError, match='must hold "visible"'):
        LabelledSlots(train.vectors, train.valid, {"color": train.objects["color"]})
    with pytest.raises(ValueError, match="NaN or infinity in a valid slot"):
        dataclasses.replace(train, vectors=train.vectors.clone().index_fill_(0, torch.tensor([3]), float("nan")))
    with pytest.raises(ValueError, match="visible object"):
        dataclasses.replace(train, objects={**train.objects, "scale": train.objects["scale"] / 0 - 1})
    with pytest.raises(ValueError, match=r"must start with \(n, M\)"):
        dataclasses.replace(train, objects={**train.objects, "scale": train.objects["scale"][:, :2]})
    with pytest.raises(ValueError, match="valid bool"):
        dataclasses.replace(train, valid=train.valid[:, :2])
    with pytest.raises(ValueError, match="one slot for each object"):
        dataclasses.replace(train, pairs=Assignment(torch.zeros(2, 2), torch.zeros(2, 2)))
    with pytest.raises(ValueError, match='no property "colour"'):
        probe_properties(train, test_set, names=["colour"])
    with pytest.raises(ValueError, match="must agree"):
        probe_properties(train, dataclasses.replace(test_set, vectors=test_set.vectors[..., :5]))
    with pytest.raises(ValueError, match="at least two images"):
        probe_properties(train, test_set.take(torch.arange(1)))
    with pytest.raises(ValueError, match="one part empty"):
        test_set.split(0.0)
    with pytest.raises(ValueError, match="by_masks needs"):
        collect(Grid(), [Batch(torch.rand(2, 3, 8, 8), None, {"visible": torch.ones(2, 3, dtype=torch.bool)})], True)
    with pytest.raises(ValueError, match=r"by_masks needs .* objects"):
        collect(Grid(), [Batch(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64))], True)
    negative = dataclasses.replace(train, objects={**train.objects, "color": train.objects["color"] - 1})
    with pytest.raises(ValueError, match="labels of 0 or more"):
        probe_properties(negative, test_set)

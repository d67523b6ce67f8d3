"""The study against a classifier whose every answer is known: it names the colour that most of a picture has."""

import json

import pytest
import torch
from PIL import Image
from rich.console import Console

from ocl.data.collate import collate
from ocl.masks.apply import Black
from ocl.masks.base import Masks
from ocl.masks.classifiers import Classifier
from ocl.masks.foreground import BoxIoU, ClassAided, ForegroundScore, MaximumProbability, SizePrior
from ocl.masks.image_encoders import ImageEncoder
from ocl.masks.perturb import Dilate, Erode, PerturbedMasks
from ocl.masks.segments import SegmentClassifier
from ocl.masks.selection import Best, TopKVote, WeightedMean
from ocl.masks.sources import Grid, TrueMasks, WholeImage
from ocl.occam.answers import answer
from ocl.occam.command import occam
from ocl.occam.ensembles import Published
from ocl.occam.labels import TrueObject
from ocl.occam.rows import ONLY, rows_of
from ocl.occam.sheet import GAP, LINE, TILE, Sheet
from ocl.occam.study import PICTURE, ROWS, Study
from ocl.occam.table import table
from ocl.shapes import Batch

SIZE = 16
CLASSES = ("red", "green", "blue")
GROUPS = [f"{name} on {behind}" for name in CLASSES for behind in CLASSES]


class Channels(ImageEncoder):
    """Mean of each colour: D = 3."""

    def __init__(self):
        super().__init__()
        self.image_size, self.dim = SIZE, 3

    def encode(self, images):
        return images.mean((2, 3))


class NamesTheColor(Classifier):
    def __init__(self):
        super().__init__(Channels(), CLASSES)

    def logits(self, vectors):
        return 20 * vectors


class ColoredBoxes(torch.utils.data.Dataset):
    """Item i: a box (its colour is the class) on a larger background of a colour, both of i mod 9; n times over."""

    def __init__(self, rounds=4):
        self.size = 9 * rounds

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        label, behind = divmod(index % 9, 3)
        image = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
        segmentation = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
        image[behind], segmentation[3:9, 2:8] = 200, 1
        image[:, 3:9, 2:8] = 0
        image[label, 3:9, 2:8] = 200
        group = torch.tensor([3 * label + behind])
        return {
            "images": image,
            "segmentation": segmentation,
            "visible": torch.ones(1, dtype=torch.bool),
            "class": torch.tensor([label]),
            "group": group,
        }


class Nothing:
    """A source that finds nothing in the images of even number."""

    def __call__(self, batch):
        masks = (batch.segmentation == 1)[:, None].clone()
        masks[::2] = False
        return Masks.of(masks)


class Constant(ForegroundScore):
    name = "constant"

    def score(self, candidates):
        return torch.zeros(candidates.masks.valid.shape)


def batches(rounds=4, size=12):
    dataset = ColoredBoxes(rounds)
    indices = torch.arange(len(dataset)).split(size)
    return [collate([dataset[int(i)] for i in part]) for part in indices]


def classifier():
    return SegmentClassifier(Black(SIZE), [NamesTheColor()])


def answers_of(source, scores=None, selections=None):
    scores, selections = scores or [MaximumProbability()], selections or {"best": Best()}
    return answer(batches(), source, classifier(), scores, selections)


def values(rows, measure):
    return [row["value"] for row in rows if row["measure"] == measure]


def test_the_whole_image_says_the_background_and_the_object_itself():
    none, true = answers_of(WholeImage()), answers_of(TrueObject())
    way = ("maximum probability", "best")
    assert torch.equal(none.predictions[way], none.groups % 3)
    assert torch.equal(true.predictions[way], true.labels)
    assert none.counts.tolist() == true.counts.tolist() == [1] * 36
    assert true.any_correct.all()
    assert torch.equal(none.any_correct, none.groups // 3 == none.groups % 3)


def test_every_score_and_selection_gives_each_image_one_answer():
    scores = [Constant(), SizePrior(), BoxIoU(), ClassAided(), MaximumProbability()]
    selections = {"best": Best(), "mean": WeightedMean(), "vote": TopKVote(2)}
    found = answers_of(TrueMasks(background=True), scores, selections)
    assert len(found.predictions) == 15
    assert all(len(predictions) == 36 for predictions in found.predictions.values())
    right = {way: found.predictions[way] == found.labels for way in found.predictions}
    assert torch.equal(found.predictions["size", "best"], found.groups % 3), "the background is the largest"
    assert right["IoU with the true box", "best"].all()
    assert right["class-aided", "best"].all()
    for score in scores:  # the oracle wins, and nothing beats any correct segment
        assert right["class-aided", "best"].sum() >= right[score.name, "best"].sum()
        assert not (right[score.name, "best"] & ~found.any_correct).any()


def test_images_without_a_segment_are_answered_by_the_whole_image():
    found = answers_of(Nothing())
    assert len(found.labels) == 36
    assert found.without.tolist() == [True, False] * 18
    expected = torch.where(found.without, found.groups % 3, found.labels)
    assert torch.equal(found.predictions["maximum probability", "best"], expected)
    rows = rows_of("some", found, [MaximumProbability()], CLASSES, GROUPS, seed=0)
    assert values(rows, "whole image instead") == [0.5]


def test_rows_on_paper():
    """Without masks only the three groups on their own colour are right: accuracy 1/3, worst group 0."""
    rows = rows_of("none", answers_of(WholeImage()), [MaximumProbability()], CLASSES, GROUPS, seed=5)
    assert {(row["seed"], row["source"], row["score"], row["selection"], row["oracle"]) for row in rows} == {
        (5, "none", ONLY, ONLY, "")
    }
    assert values(rows, "accuracy") == pytest.approx([1 / 3])
    assert values(rows, "worst group") == [0]
    assert values(rows, "gap") == pytest.approx([1 / 3])
    assert values(rows, "class mean") == pytest.approx([1 / 3])
    assert values(rows, "group: red on red") == [1]
    assert values(rows, "group: red on blue") == [0]
    assert values(rows, "chance") == []
    (accuracy,) = (row for row in rows if row["measure"] == "accuracy")
    assert accuracy["images"] == 36
    # A binomial share of 36: the percentile interval is about 1.96 standard errors to both sides.
    assert accuracy["high"] - accuracy["low"] == pytest.approx(2 * 1.96 * (2 / 9 / 36) ** 0.5, rel=0.2)


def test_in_distribution_accuracy_weighs_the_groups_as_in_training(tmp_path):
    """Without masks the groups on their own colour are right, all others wrong."""
    ratios = [0.3 if label == behind else 0.1 / 6 for label in range(3) for behind in range(3)]
    rows = rows_of("none", answers_of(WholeImage()), [MaximumProbability()], CLASSES, GROUPS, 0, ratios)
    assert values(rows, "in-distribution") == pytest.approx([0.9])
    dataset = ColoredBoxes()
    dataset.group_ratios = ratios
    parts = {name: part for name, part in settings("", dataset=dataset).items() if name not in ("seeds", "folder")}
    measured = [row for row in Study(**parts).run(0, tmp_path) if row["measure"] == "in-distribution"]
    assert [row["value"] for row in measured if row["source"] == "none"] == pytest.approx([0.9])


def test_scores_that_read_the_label_stand_beside_their_chance():
    scores = [SizePrior(), BoxIoU(), ClassAided()]
    found = answers_of(Grid(2, 2), scores)
    rows = rows_of("grid", found, scores, CLASSES, GROUPS, seed=0)
    oracle = {row["score"]: row["oracle"] for row in rows}
    assert oracle == {"size": "", "IoU with the true box": "place", "class-aided": "class"}
    assert {row["score"] for row in rows if "chance" in row["measure"]} == {"class-aided"}
    assert values(rows, "any correct by chance") == pytest.approx([1 - (2 / 3) ** 4])
    (chance,), (above,) = values(rows, "chance"), values(rows, "above chance")
    aided = next(row for row in rows if row["score"] == "class-aided" and row["measure"] == "accuracy")
    assert 1 / 3 < chance < 1 - (2 / 3) ** 4
    assert above == pytest.approx(aided["value"] - chance)


def test_a_class_that_the_classifier_lacks_is_refused():
    one = batches()[0]
    wrong = Batch(one.images, one.segmentation, {**one.objects, "class": one.objects["class"] + 1})
    with pytest.raises(
        ValueError, match=r"the data set has the class 3, the classifier knows 0\.\.2: red, green, blue"
    ):
        answer([wrong], WholeImage(), classifier(), [MaximumProbability()], {"best": Best()})


def settings(folder, **changes):
    options = {
        "dataset": ColoredBoxes(),
        "ensemble": Published([NamesTheColor()]),
        "application": Black(SIZE),
        "sources": {
            "none": WholeImage(),
            "true masks": TrueMasks(background=True),
            "grown": PerturbedMasks(TrueObject(), Dilate(0.3)),
            "shrunk": PerturbedMasks(TrueObject(), Erode(0.3)),
        },
        "scores": [SizePrior(), ClassAided()],
        "selections": {"best": Best()},
        "sheet": Sheet("true masks", "size", images=4),
        "seeds": [0, 1],
        "folder": folder,
        "batch_size": 16,
    }
    return options | changes


def test_the_command_writes_rows_pictures_and_a_manifest_and_repeats_nothing(tmp_path, capsys):
    occam(**settings(tmp_path))
    rows = json.loads((tmp_path / "results.json").read_text())
    assert {row["seed"] for row in rows} == {0, 1}
    assert list(dict.fromkeys(row["source"] for row in rows)) == ["none", "true masks", "grown", "shrunk"]
    by_source = {
        source: values([row for row in rows if row["source"] == source], "accuracy")
        for source in settings("")["sources"]
    }
    assert by_source["none"] == pytest.approx([1 / 3] * 2)
    assert by_source["true masks"] == pytest.approx([1 / 3, 1] * 2)
    assert by_source["grown"] == pytest.approx([1 / 3] * 2), "most of the mask is background by now"
    assert by_source["shrunk"] == [1, 1]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1]
    assert manifest["config"]["sources"]["grown"]["perturbation"]["iou"] == 0.3
    printed = capsys.readouterr().out
    assert "36 images, 2 seeds" in printed
    assert "class-aided [class]" in printed
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(ROWS)}
    occam(**settings(tmp_path, seeds=[0, 1, 2]))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(tmp_path.rglob(ROWS))) == 3
    with pytest.raises(ValueError, match="holds a seed of another study"):
        occam(**settings(tmp_path, scores=[SizePrior(), BoxIoU()]))


def test_the_sheet_frames_what_was_selected_in_the_colour_of_the_answer(tmp_path):
    study = Study(**{name: part for name, part in settings("").items() if name not in ("seeds", "folder")})
    study.run(0, tmp_path)
    picture = Image.open(tmp_path / PICTURE).convert("RGB")
    assert picture.size == (GAP + 4 * (TILE + GAP), GAP + 4 * (TILE + 2 * LINE + GAP))
    for row in range(4):  # classes red, red, red, green on red, green, blue, red; the background is selected
        edge = picture.getpixel((GAP + 2 * (TILE + GAP) - 2, GAP + row * (TILE + 2 * LINE + GAP) + TILE // 2))
        right = row == 0
        assert edge == ((0x1A, 0x7F, 0x37) if right else (0xCF, 0x22, 0x2E))
        first = picture.getpixel((GAP + 10, GAP + row * (TILE + 2 * LINE + GAP) + TILE - 5))
        assert first == tuple(200 if channel == row % 3 else 0 for channel in range(3))


def test_the_table_gives_spread_over_seeds_and_the_outermost_interval():
    base = {"source": "none", "score": ONLY, "selection": ONLY, "oracle": "", "images": 100}
    rows = [
        base | {"seed": seed, "measure": "accuracy", "value": value, "low": value - 0.1, "high": value + 0.1}
        for seed, value in ((0, 0.5), (1, 0.7))
    ]
    console = Console(width=200, record=True)
    console.print(table(rows))
    text = console.export_text()
    assert "0.600 ± 0.141" in text
    assert "[0.400, 0.800]" in text
    assert "marked [class]" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {}}, "at least one source of masks"),
        ({"scores": [SizePrior(), SizePrior()]}, "different names, got size, size"),
        ({"sheet": Sheet("somewhere", "size")}, "the sheet shows 'size' on 'somewhere'"),
        ({"seeds": [1, 1]}, "give different seeds"),
        ({"seeds": []}, "give different seeds"),
        ({"processes": 0}, "at least one process"),
    ],
)
def test_bad_studies_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        occam(**settings(tmp_path, **changes))

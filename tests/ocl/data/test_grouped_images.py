"""Waterbirds, UrbanCars, ImageNet-9, ImageNet-D and CounterAnimal, written in their own layouts and read back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from ocl.data.collate import collate
from ocl.data.counter_animal import CounterAnimal
from ocl.data.grouped_images import GroupedImages
from ocl.data.imagenet_9 import CLASSES as NINE
from ocl.data.imagenet_9 import ImageNet9, ImageNet9Names, imagenet_9_members
from ocl.data.imagenet_d import ImageNetD, ImageNetDNames
from ocl.data.images import center_image, read_image
from ocl.data.urban_cars import GROUPS as CAR_GROUPS
from ocl.data.urban_cars import CarMasks, CarNames, UrbanCars
from ocl.data.waterbirds import GROUPS, BirdNames, BirdSegmentations, WaterbirdGroups, Waterbirds
from ocl.describe import describe_dataset
from ocl.metrics.groups import GroupCounts
from ocl.occam.labels import TrueObject, groups_of, labels_of

SIZE = 32
SPECIES = {  # as CUB writes them -> y of the release
    "001.Black_footed_Albatross": 1,
    "021.Eastern_Towhee": 1,
    "084.Red_legged_Kittiwake": 1,
    "087.Mallard": 1,
    "118.House_Sparrow": 0,
    "127.Savannah_Sparrow": 0,
}
TRAINED = (6, 2, 1, 3)
"""Birds of the training split in every group, of the test split two."""


def photograph(path: Path, shape: tuple[int, int] = (36, 48)) -> Path:
    """Noise of its own: no two files are alike."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(crc32(path.as_posix().encode()))
    Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path, quality=95)
    return path


def grey(path: Path, values: NDArray[np.integer[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def write_waterbirds(folder: Path) -> list[dict[str, Any]]:
    """The release in small, with a photograph of another shape for every line."""
    lines: list[dict[str, Any]] = []
    for split, counts in ((0, TRAINED), (1, (1,) * 4), (2, (2,) * 4)):
        for group, count in enumerate(counts):
            for index in range(count):
                number = len(lines)
                fitting = [species for species, water in SPECIES.items() if water == group // 2]
                species = fitting[index % len(fitting)]
                name = f"{species}/Bird_{number:04d}_{split}.jpg"
                photograph(folder / name, (30 + number, 60 - number))
                y, place = divmod(group, 2)
                lines.append({"img_id": number + 1, "img_filename": name, "y": y, "split": split, "place": place})
    write_table(folder, lines)
    return lines


def write_table(folder: Path, lines: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, [*lines[0], "place_filename"])
        table.writeheader()
        table.writerows({**line, "place_filename": "/o/ocean/00000001.jpg"} for line in lines)


def check(dataset: GroupedImages, count: int) -> None:
    """What holds of every set: items of one size, one photograph each, in the form that a study reads."""
    assert len(dataset) == count
    batch = collate([dataset[index] for index in range(count)])
    assert batch.images.shape == (count, 3, SIZE, SIZE)
    assert batch.images.dtype == torch.uint8
    assert batch.objects["visible"].shape == (count, 1)
    assert batch.objects["visible"].all()
    assert int(labels_of(batch).max()) < len(dataset.classes)
    assert int(groups_of(batch).max()) < len(dataset.group_names)
    assert len({dataset.path(index) for index in range(count)}) == count
    for index in range(count):
        expected = center_image(read_image(dataset.path(index)), SIZE)
        assert np.array_equal(batch.images[index].numpy(), expected)


def test_waterbirds_as_released(tmp_path: Path) -> None:
    lines = write_waterbirds(tmp_path)
    dataset = Waterbirds(tmp_path, "test", SIZE)
    check(dataset, 8)
    tested = [line for line in lines if line["split"] == 2]
    for index, line in enumerate(tested):
        item = dataset[index]
        assert dataset.path(index) == tmp_path / line["img_filename"]
        assert item["class"].tolist() == [line["y"]]
        assert item["group"].tolist() == [2 * line["y"] + line["place"]]
    assert [dataset.group_names[int(dataset[i]["group"])] for i in range(8)] == [name for name in GROUPS for _ in "ab"]
    assert dataset.group_ratios == pytest.approx([count / 12 for count in TRAINED])
    counts = GroupCounts(GROUPS, torch.tensor([2, 0, 1, 2]), torch.tensor([2] * 4))
    assert counts.weighted(dataset.group_ratios or ()).value == pytest.approx((6 + 0 + 0.5 + 3) / 12)
    assert [len(Waterbirds(tmp_path, split, SIZE)) for split in ("train", "val")] == [12, 4]


def test_the_tern_in_eastern(tmp_path: Path) -> None:
    """The release calls a towhee a water bird; corrected, photographs, names and ratios agree that it is none."""
    lines = write_waterbirds(tmp_path)
    released, corrected = (Waterbirds(tmp_path, "test", SIZE, corrected=flag) for flag in (False, True))
    towhees = ["Towhee" in line["img_filename"] for line in lines if line["split"] == 2]
    assert sum(towhees) == 2
    for index, towhee in enumerate(towhees):
        before, after = released[index], corrected[index]
        assert int(before["class"]) - int(after["class"]) == towhee
        assert int(before["group"]) - int(after["group"]) == 2 * towhee, "the background stays"
    assert corrected.group_ratios != released.group_ratios
    assert describe_dataset(corrected) != describe_dataset(released)
    old, new = (BirdNames(tmp_path, corrected=flag).members for flag in (False, True))
    assert old == {
        "landbird": ["house sparrow", "savannah sparrow"],
        "waterbird": ["black footed albatross", "eastern towhee", "red legged kittiwake"],
    }
    assert new["landbird"] == ["eastern towhee", "house sparrow", "savannah sparrow"]
    assert new["waterbird"] == ["black footed albatross", "red legged kittiwake"]


def test_birds_where_cub_has_them(tmp_path: Path) -> None:
    write_waterbirds(tmp_path / "release")
    dataset = Waterbirds(tmp_path / "release", "test", SIZE)
    for index in range(len(dataset)):
        path = dataset.path(index)
        width, height = Image.open(path).size
        votes = np.zeros((height, width))
        votes[height // 2 :, :] = 102  # two of five annotators
        votes[: height // 2, : width // 2] = 153  # three of them
        grey(tmp_path / "segmentations" / path.parent.name / f"{path.stem}.png", votes)
    masked = Waterbirds(tmp_path / "release", "test", SIZE, masks=BirdSegmentations(tmp_path / "segmentations"))
    batch = collate([masked[index] for index in range(len(masked))])
    expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    expected[: SIZE // 2, : SIZE // 2] = True
    masks = TrueObject()(batch).masks[:, 0]
    assert ((masks != expected).flatten(1).sum(1) <= 2 * SIZE).all(), "a line of pixels at both edges"
    assert describe_dataset(masked) != describe_dataset(dataset)
    path = masked.path(3)
    (tmp_path / "segmentations" / path.parent.name / f"{path.stem}.png").unlink()
    with pytest.raises(FileNotFoundError, match="is missing; restore the segmentations of CUB"):
        masked[3]
    with pytest.raises(FileNotFoundError, match="give `segmentations` of CUB"):
        BirdSegmentations(tmp_path / "nowhere")


@pytest.mark.parametrize("layout", ["numbered", "named"])
def test_waterbirds_in_folders_of_groups(tmp_path: Path, layout: str) -> None:
    for group, name in enumerate(GROUPS):
        whole, alone = f"test_split/group_{group}", f"FG-Only/test_split/group_{group}"
        if layout == "named":
            whole = name.replace(" ", "_")
            alone = f"{whole}_fg_only"
        for index in range(group + 1):
            photograph(tmp_path / whole / str(group // 2) / f"{index}.jpg")
            photograph(tmp_path / alone / str(group // 2) / f"{index}.jpg")
    dataset, foregrounds = WaterbirdGroups(tmp_path, SIZE), WaterbirdGroups(tmp_path, SIZE, foreground=True)
    check(dataset, 10)
    check(foregrounds, 10)
    assert [int(dataset[i]["group"]) for i in range(10)] == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert [int(dataset[i]["class"]) for i in range(10)] == [0] * 3 + [1] * 7
    assert not {dataset.path(i) for i in range(10)} & {foregrounds.path(i) for i in range(10)}
    assert dataset.group_ratios is None
    (dataset.path(0).parent.parent / "1").mkdir()  # empty, as a class that the group cannot have
    check(WaterbirdGroups(tmp_path, SIZE), 10)
    (dataset.path(0).parent.parent / "1").rmdir()
    wrong = dataset.path(0).parent
    wrong.rename(wrong.with_name("1"))
    with pytest.raises(ValueError, match="should be 0, the class of landbird on land"):
        WaterbirdGroups(tmp_path, SIZE)


def write_cars(place: Path, names: Callable[[int], str], count: int = 2) -> None:
    for group in range(8):
        for index in range(count):
            path = photograph(place / names(group) / f"{index:03d}.jpg", (40, 40))
            for kind, box in (("mask", slice(10, 30)), ("co_occur_obj_mask", slice(25, 40))):
                values = np.zeros((40, 40))
                values[box, 10:30] = 255
                grey(path.with_name(f"{path.stem}_{kind}.png"), values)


def coded(group: int) -> str:
    return str(100 * (group // 4) + 10 * (group // 2 % 2) + group % 2)


def generated(group: int) -> str:
    car, behind, beside = (("urban", "country")[group >> shift & 1] for shift in (2, 1, 0))
    return f"obj-{car}_bg-{behind}_co_occur_obj-{beside}"


@pytest.mark.parametrize(
    ("place", "names"),
    [("test", coded), ("test", lambda group: coded(group).zfill(3)), ("bg-0.5_co_occur_obj-0.5/test", generated)],
)
def test_urban_cars(tmp_path: Path, place: str, names: Callable[[int], str]) -> None:
    write_cars(tmp_path / place, names)
    dataset = UrbanCars(tmp_path, "test", SIZE)
    check(dataset, 16)
    for index in range(16):
        group, name = int(dataset[index]["group"]), dataset.path(index).parent.name
        assert name == names(group)
        assert int(dataset[index]["class"]) == group // 4
    assert CAR_GROUPS[6] == "country car, country background, urban object"
    ratios = dataset.group_ratios or ()
    assert ratios[0] == ratios[7] == pytest.approx(0.95**2 / 2)
    assert ratios[3] == ratios[4] == pytest.approx(0.05**2 / 2)
    assert sum(ratios) == pytest.approx(1)
    masked = collate([UrbanCars(tmp_path, "test", SIZE, masks=CarMasks())[index] for index in range(16)])
    assert masked.segmentation is not None
    assert masked.segmentation.unique().tolist() == [0, 1, 2]
    share = (masked.segmentation == 1).float().mean((1, 2))
    assert share.tolist() == pytest.approx([0.25] * 16), "the car stands before the object"
    assert torch.equal((masked.segmentation == 2).sum((1, 2)), torch.full((16,), SIZE * SIZE // 8))


def test_urban_cars_that_are_not_there(tmp_path: Path) -> None:
    write_cars(tmp_path / "test", coded, 1)
    (tmp_path / "test" / "111" / "000_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"000_mask\.png is missing; generate UrbanCars again"):
        UrbanCars(tmp_path, "test", SIZE, masks=CarMasks())[7]
    (tmp_path / "test" / "111" / "000.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="no photograph of country car, country background, country object"):
        UrbanCars(tmp_path, "test", SIZE)
    (tmp_path / "test" / "112").mkdir()
    with pytest.raises(ValueError, match="112 is no group of UrbanCars"):
        UrbanCars(tmp_path, "test", SIZE)
    with pytest.raises(FileNotFoundError, match="train is not a folder"):
        UrbanCars(tmp_path, "train", SIZE)


def test_names_of_cars(tmp_path: Path) -> None:
    models = [f"Make {number} Sedan 2012" for number in range(196)]
    names = np.empty((1, 196), dtype=object)
    names[0] = models
    savemat(tmp_path / "cars_meta.mat", {"class_names": names})
    sides = [int(number % 3 == 0) for number in range(196)]
    (tmp_path / "body_type.json").write_text(json.dumps(sides))
    members = CarNames(tmp_path / "cars_meta.mat", tmp_path / "body_type.json").members
    assert list(members) == ["urban car", "country car"]
    assert members["country car"] == models[::3]
    assert sorted([*members["urban car"], *members["country car"]]) == sorted(models)
    for content, message in (
        ("[0, 1]", "196 models and 2 types"),
        ("[", "is not body_type.json"),
        ("{}", "196 models and 0 types"),
    ):
        (tmp_path / "body_type.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            CarNames(tmp_path / "cars_meta.mat", tmp_path / "body_type.json")
    with pytest.raises(FileNotFoundError, match=r"give cars_meta\.mat of Stanford Cars"):
        CarNames(tmp_path / "nothing.mat", tmp_path / "body_type.json")
    (tmp_path / "cars_meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match=r"is not cars_meta\.mat"):
        CarNames(tmp_path / "cars_meta.mat", tmp_path / "body_type.json")


def test_imagenet_9(tmp_path: Path) -> None:
    for variation in ("mixed_rand", "only_fg"):
        for number, name in enumerate(NINE):
            for index in range(2):
                kind = tmp_path / variation / "val" / f"{number:02d}_{name}"
                photograph(kind / f"fg_n0000000{number}_{index}_bg_n01_3.JPEG", (40, 40))
    (tmp_path / "mixed_rand" / "val" / "00_dog" / "._fg_n00000000_0_bg_n01_3.JPEG").write_bytes(b"of another system")
    dataset = ImageNet9(tmp_path, size=SIZE)
    check(dataset, 18)
    assert [int(dataset[i]["class"]) for i in range(18)] == [number for number in range(9) for _ in "ab"]
    assert all(dataset.classes[int(dataset[i]["class"])] in dataset.path(i).parent.name for i in range(18))
    assert "only_fg" in ImageNet9(tmp_path, "only_fg", size=SIZE).path(0).as_posix()
    with pytest.raises(FileNotFoundError, match="mixed_same/val is not a folder"):
        ImageNet9(tmp_path, "mixed_same", size=SIZE)
    (tmp_path / "mixed_rand" / "val" / "08_fish").rename(tmp_path / "mixed_rand" / "val" / "09_fish")
    with pytest.raises(ValueError, match="09_fish is no class of ImageNet-9"):
        ImageNet9(tmp_path, size=SIZE)


def test_names_of_imagenet_9(tmp_path: Path) -> None:
    """In a mapping of our own, with the real names and synsets: what belongs to no class is left out."""
    path = tmp_path / "in_to_in9.json"
    path.write_text(json.dumps({str(number): (number % 10) - 1 for number in range(1000)}))
    members = ImageNet9Names(path).members
    assert list(members) == list(NINE)
    assert (members["dog"][0], len(members["dog"])) == ("goldfish", 100)
    synsets = [f"n{number:08d}" for number in range(1000)]
    assert imagenet_9_members(path, synsets)["fish"] == synsets[9::10]
    for content, message in (
        ("{", "is not in_to_in9.json"),
        ("[1]", "is not in_to_in9.json"),
        ('{"1000": 0}', r"a place in -1\.\.8, all used"),
        ('{"0": 9}', r"a place in -1\.\.8, all used"),
        ('{"0": 0}', r"a place in -1\.\.8, all used"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            imagenet_9_members(path, synsets)
    with pytest.raises(FileNotFoundError, match=r"give in_to_in9\.json"):
        ImageNet9Names(tmp_path / "nothing.json")


def test_imagenet_d(tmp_path: Path) -> None:
    kinds = {"background": ["wok", "alarm_clock", "t_shirt"], "texture": ["wok", "mixing_or_salad_bowl"]}
    for subset, names in kinds.items():
        for name in names:
            photograph(tmp_path / subset / name / "0.png", (64, 64))
    dataset = ImageNetD(tmp_path, ["texture", "background"], SIZE)
    check(dataset, 5)
    assert dataset.classes == ("alarm clock", "mixing or salad bowl", "t shirt", "wok")
    assert dataset.group_names == ("texture", "background")
    assert [(int(dataset[i]["class"]), int(dataset[i]["group"])) for i in range(5)] == [
        (1, 0),
        (3, 0),
        (0, 1),
        (2, 1),
        (3, 1),
    ]
    assert ImageNetD(tmp_path, size=SIZE).classes == dataset.classes, "whichever subsets are read"
    listed = {"wok": [2, "wok"], "alarm_clock": [0, "alarm_clock"], "t_shirt": [1, "t-shirt"]}
    listed |= {"mixing_or_salad_bowl": [3, "Mixing/salad_bowl"], "vase": [4, "vase"]}
    (tmp_path / "names.json").write_text(json.dumps(listed))
    named = ImageNetD(tmp_path, size=SIZE, names=tmp_path / "names.json")
    assert named.classes == ("alarm clock", "t shirt", "wok", "mixing or salad bowl", "vase")
    assert [int(named[i]["class"]) for i in range(3)] == [0, 1, 2]
    members = ImageNetDNames(tmp_path, tmp_path / "names.json").members
    assert tuple(members) == named.classes
    assert all(names == [name] for name, names in members.items())
    photograph(tmp_path / "background" / "unheard_of" / "0.png")
    with pytest.raises(ValueError, match=r"unheard_of is no class of .*names\.json"):
        ImageNetD(tmp_path, size=SIZE, names=tmp_path / "names.json")
    (tmp_path / "names.json").write_text('{"wok": 3}')
    with pytest.raises(ValueError, match="is not the list of ImageNet-D's classes"):
        ImageNetDNames(tmp_path, tmp_path / "names.json")
    with pytest.raises(ValueError, match="has the subsets background, texture, material, not 'texture'"):
        ImageNetD(tmp_path, "texture", SIZE)
    with pytest.raises(FileNotFoundError, match="holds none of background, texture, material"):
        ImageNetD(tmp_path / "background", size=SIZE)


@pytest.mark.parametrize("released", [True, False])
def test_counter_animal(tmp_path: Path, released: bool) -> None:
    for label, name in ((80, "black grouse"), (9, "ostrich")):
        for group, place in (("common", "grass"), ("counter", "snow")):
            folder = f"{label} {name}/{group}-{place}" if released else f"{group}/{label}"
            photograph(tmp_path / folder / f"{label}.jpeg")
            photograph(tmp_path / folder / "other.jpeg", (48, 36))
    (tmp_path / "README.txt").write_text("not a photograph")
    dataset = CounterAnimal(tmp_path, SIZE)
    check(dataset, 8)
    assert len(dataset.classes) == 1000
    for index in range(8):
        label, path = int(dataset[index]["class"]), dataset.path(index)
        assert dataset.group_names[int(dataset[index]["group"])] in path.as_posix().removeprefix(tmp_path.as_posix())
        assert str(label) in path.parent.as_posix()
        assert dataset.classes[label] == {80: "n01795545", 9: "n01518878"}[label]


def test_counter_animal_in_another_layout(tmp_path: Path) -> None:
    photograph(tmp_path / "common" / "80" / "0.jpg")
    with pytest.raises(FileNotFoundError, match="no photographs of the group counter"):
        CounterAnimal(tmp_path)
    photograph(tmp_path / "counter" / "grouse" / "0.jpg")
    with pytest.raises(ValueError, match="its name must begin with ImageNet's number"):
        CounterAnimal(tmp_path)
    photograph(tmp_path / "a" / "80 black grouse" / "snow" / "0.jpg")
    with pytest.raises(ValueError, match="its name must begin with common or counter"):
        CounterAnimal(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": 2}, r"metadata\.csv, line 3 is no bird of the release: .*y 2"),
        ({"place": ""}, "line 3 is no bird"),
        ({"split": 3}, "line 3 is no bird"),
        ({"split": "01"}, "line 3 is no bird"),
        ({"img_filename": "Mallard.jpg"}, "line 3 is no bird"),
        ({"img_filename": "../118.House_Sparrow/a.jpg"}, "line 3 is no bird"),
    ],
)
def test_metadata_of_another_form(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    lines = write_waterbirds(tmp_path)
    lines[1] |= change
    write_table(tmp_path, lines)
    with pytest.raises(ValueError, match=message):
        Waterbirds(tmp_path)


def test_waterbirds_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv is missing; give the folder of the release"):
        Waterbirds(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds neither FG-Only/test_split nor landbird_on_land_fg_only"):
        WaterbirdGroups(tmp_path, foreground=True)
    lines = write_waterbirds(tmp_path)
    with pytest.raises(ValueError, match="has the splits train, val, test, not 'all'"):
        Waterbirds(tmp_path, "all")
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        Waterbirds(tmp_path, size=0)
    damaged = Waterbirds(tmp_path, size=SIZE)
    damaged.path(0).write_bytes(damaged.path(0).read_bytes()[:200])
    with pytest.raises(ValueError, match="is not a readable image"):
        damaged[0]
    damaged.path(1).unlink()
    with pytest.raises(FileNotFoundError, match="is listed but not there; restore the photograph"):
        Waterbirds(tmp_path)
    write_table(tmp_path, [*lines, lines[-1]])
    with pytest.raises(ValueError, match="lists a photograph more than once"):
        Waterbirds(tmp_path)
    write_table(tmp_path, [{**line, "y": 0} for line in lines])
    with pytest.raises(ValueError, match="must name land birds and water birds"):
        BirdNames(tmp_path)
    (tmp_path / "metadata.csv").write_text("img_filename,y,split\n001.A/b.jpg,0,2\n")
    with pytest.raises(ValueError, match=r"metadata\.csv has no column place"):
        Waterbirds(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe\x00\xd8" * 8)
    with pytest.raises(ValueError, match="is not a table"):
        Waterbirds(tmp_path)

"""COCO, PASCAL VOC and CLEVRTEX, written in their own layouts and read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from ocl.data.clevrtex import CLEVRTEX
from ocl.data.coco_instances import COCOInstances
from ocl.data.coco_stuff import COCOStuff
from ocl.data.collate import collate
from ocl.data.pascal_voc import PascalVOC
from ocl.describe import describe_dataset
from ocl.metrics.labels import class_segmentation
from tests import small_sets


def labels_of(item):
    return item["segmentation"].numpy()


def test_coco_overlaps_and_crowds_are_unknown_unless_a_protocol_says_otherwise(tmp_path):
    small_sets.coco(tmp_path)
    # The cut takes columns 10 to 49: 20 x 20 squares at (2, 2) and (16, 16) of it overlap; a crowd from column 47 on.
    first, second = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    first[2:22, 2:22] = second[16:36, 16:36] = True
    polygons = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())["annotations"]
    drawn = [coco_mask.decode(coco_mask.frPyObjects(entry["segmentation"], 40, 60))[..., 0] for entry in polygons[:2]]
    assert np.array_equal(drawn[0][:, 10:50], first)
    assert np.array_equal(drawn[1][:, 10:50], second)
    crowd = np.arange(10, 50)[None].repeat(40, 0) >= 47
    objects = np.where(first, 1, 0) + np.where(second, 2, 0)
    both = first & second
    for settings, expected in (
        ({}, np.where(both | crowd, -1, objects)),
        ({"overlap": 0, "crowd": 0}, np.where(both, 0, objects)),
        ({"overlap": 0, "crowd": None}, np.where(both, 0, np.where(crowd, 3, objects))),
    ):
        data = COCOInstances(tmp_path, "val", size=40, max_objects=4, **settings)
        assert len(data) == 2
        batch = collate([data[0], data[1]])
        assert np.array_equal(batch.segmentation[1].numpy(), expected)
        several = settings.get("crowd", -1) is None
        assert batch.objects["class"][0].tolist() == [1, 18, 1 if several else 0, 0]
        assert batch.objects["visible"][0].tolist() == [True, True, several, False]
    assert data.class_names == {1: "person", 18: "dog"}
    # With the crowd a person too, both are one segment of class 1.
    merged = class_segmentation(batch.segmentation, batch.objects["class"])[0].numpy()
    people = first & ~both | crowd
    assert len(np.unique(merged)) == 3
    assert len(np.unique(merged[people])) == 1
    assert not np.isin(merged[~people], merged[people]).any()
    assert len(COCOInstances(tmp_path, "train")) == 4


def test_labels_may_be_finer_than_images(tmp_path):
    small_sets.coco(tmp_path)
    item = COCOInstances(tmp_path, size=20, label_size=80)[0]
    assert item["images"].shape == (3, 20, 20)
    coarse = labels_of(COCOInstances(tmp_path, size=40)[0])
    assert np.array_equal(labels_of(item), coarse.repeat(2, 0).repeat(2, 1))
    with pytest.raises(ValueError, match="at least 1"):
        COCOInstances(tmp_path, label_size=0)


def test_coco_with_hundreds_of_instances(tmp_path):
    """Numbers above 255 stay apart."""
    small_sets.coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [
        {"id": number, "image_id": 0, "category_id": 1, "iscrowd": 0}
        | {"segmentation": {"size": [40, 60], "counts": [400 + 4 * number, 4, 2400 - 404 - 4 * number]}}
        for number in range(300)
    ]
    path.write_text(json.dumps(content))
    item = COCOInstances(tmp_path, size=40, max_objects=300)[0]
    assert item["visible"].all()
    assert np.array_equal(labels_of(item).T.flatten()[:1200], np.arange(1, 301).repeat(4))
    with pytest.raises(ValueError, match="shows 300 objects; read it with max_objects=300"):
        COCOInstances(tmp_path, size=40)[0]


def test_coco_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="splits train, val, not 'test'"):
        COCOInstances(tmp_path, "test")
    with pytest.raises(ValueError, match="overlap is -1 or 0"):
        COCOInstances(tmp_path, overlap=3)
    with pytest.raises(FileNotFoundError, match=r"instances_val2017\.json is missing; unpack the annotations"):
        COCOInstances(tmp_path)
    small_sets.coco(tmp_path)
    assert describe_dataset(COCOInstances(tmp_path)) == describe_dataset(COCOInstances(tmp_path))
    path = tmp_path / "annotations" / "instances_val2017.json"
    whole = path.read_text()
    for broken in ({"images": []}, [], {**json.loads(whole), "images": [{"id": 1}]}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="is not in the form of COCO instances"):
            COCOInstances(tmp_path)
    for damaged in ([[1, 2, 3, 4]], {"size": [40, 61], "counts": [2440]}, {"size": [40, 60], "counts": [7]}, None):
        content = json.loads(whole)
        content["annotations"][0]["segmentation"] = damaged
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"annotations of .*000\.jpg hold a damaged mask"):
            COCOInstances(tmp_path)[0]
    path.write_text(whole)
    (tmp_path / "val2017" / "000000000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"001\.jpg is missing; unpack the photographs"):
        COCOInstances(tmp_path)


def test_coco_stuff_classes_are_one_more_than_their_numbers(tmp_path):
    numbers = np.array([0, 90, 91, 181, 255])[np.arange(1600).reshape(40, 40) // 320]
    small_sets.photograph(tmp_path / "val2017" / "7.jpg", 40, 40)
    small_sets.indexed(tmp_path / "stuffthingmaps" / "val2017" / "7.png", numbers)
    item = COCOStuff(tmp_path, size=40, max_objects=5)[0]
    assert item["class"].tolist() == [1, 91, 92, 182, 0]
    assert item["stuff"].tolist() == [False, False, True, True, False]
    assert np.array_equal(labels_of(item), np.array([1, 2, 3, 4, -1])[np.arange(1600).reshape(40, 40) // 320])
    small_sets.indexed(tmp_path / "stuffthingmaps" / "val2017" / "7.png", numbers + (numbers == 181))
    with pytest.raises(ValueError, match=r"7\.png holds the number 182, and no class"):
        COCOStuff(tmp_path)[0]
    with pytest.raises(FileNotFoundError, match=r"train2017 holds no map"):
        COCOStuff(tmp_path, "train")
    with pytest.raises(ValueError, match="not 'test'"):
        COCOStuff(tmp_path, "test")
    (tmp_path / "val2017" / "7.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"7\.jpg is missing"):
        COCOStuff(tmp_path)


def test_voc_reads_palette_indices_and_leaves_the_border_open(tmp_path):
    small_sets.voc(tmp_path / "VOC2012", tmp_path / "sbd")
    data = PascalVOC(tmp_path / "VOC2012", "val", size=40, max_objects=3)
    assert [data.path(i).stem for i in range(2)] == ["2007_000002", "2007_000003"]
    expected = np.zeros((40, 40), int)
    expected[5:20, 5:20], expected[5:20, 20:35], expected[20, 5:35] = 1, 2, -1
    assert np.array_equal(labels_of(data[0]), expected)
    assert data[0]["class"].tolist() == [15, 15, 0]
    spot = PascalVOC(tmp_path / "VOC2012", "val", size=40, border=0)
    assert np.array_equal(labels_of(spot[0]), np.maximum(expected, 0))
    assert len(PascalVOC(tmp_path / "VOC2012", "trainval")) == 4


def test_trainaug_is_train_and_what_only_sbd_has_without_val(tmp_path):
    small_sets.voc(tmp_path / "VOC2012", tmp_path / "sbd")
    data = PascalVOC(tmp_path / "VOC2012", "trainaug", size=40, max_objects=3, sbd=tmp_path / "sbd")
    assert [data.path(i).stem[-1] for i in range(len(data))] == ["0", "1", "4", "5"]
    both = collate([data[1], data[2]])
    assert (both.segmentation[0] == -1).any(), "VOC's own map where there is one"
    assert not (both.segmentation[1] == -1).any()
    assert torch.equal(both.segmentation[0].clamp(min=0), both.segmentation[1])
    assert both.objects["class"].tolist() == [[15, 15, 0]] * 2
    for file, message in ((b"", "is not a file of instances"), (None, "is missing; restore SBD")):
        path = tmp_path / "sbd" / "inst" / "2007_000004.mat"
        path.unlink()
        if file is not None:
            path.write_bytes(file)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            data[2]
    small_sets.sbd_map(tmp_path / "sbd", "2007_000004", np.ones((40, 60)), [21])
    with pytest.raises(ValueError, match=r"classes outside 1\.\.20"):
        data[2]
    small_sets.sbd_map(tmp_path / "sbd", "2007_000004", 3 * np.ones((40, 60)), [1])
    with pytest.raises(ValueError, match="is not a file of instances"):
        data[2]
    savemat(tmp_path / "sbd" / "inst" / "2007_000004.mat", {"other": 1})
    with pytest.raises(ValueError, match="is not a file of instances"):
        data[2]


def test_voc_says_what_is_wrong(tmp_path):
    folder = tmp_path / "VOC2012"
    with pytest.raises(ValueError, match="splits train, val, trainval, trainaug, not 'test'"):
        PascalVOC(folder, "test")
    for split, sbd in (("trainaug", None), ("val", folder)):
        with pytest.raises(ValueError, match="sbd names the folder of SBD"):
            PascalVOC(folder, split, sbd=sbd)
    with pytest.raises(ValueError, match="border is -1 or 0"):
        PascalVOC(folder, border=21)
    with pytest.raises(FileNotFoundError, match=r"train\.txt is missing"):
        PascalVOC(folder)
    small_sets.voc(folder, tmp_path / "sbd")
    classes = np.zeros((40, 60), int)
    small_sets.voc_maps(folder, "2007_000000", classes, classes + 1)
    with pytest.raises(ValueError, match=r"an object whose class is 0, not 1\.\.20"):
        PascalVOC(folder)[0]
    small_sets.indexed(folder / "SegmentationClass" / "2007_000000.png", classes[1:])
    with pytest.raises(ValueError, match=r"is \(40, 60\), the map of classes \(39, 60\)"):
        PascalVOC(folder)[0]
    small_sets.photograph(folder / "SegmentationClass" / "2007_000000.png", 40, 60)
    with pytest.raises(ValueError, match="has the channels RGB, not one of 8 bits"):
        PascalVOC(folder)[0]
    (folder / "JPEGImages" / "2007_000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"2007_000001\.jpg is missing"):
        PascalVOC(folder)


def clevrtex(folder: Path, count: int, variant: str = "full") -> np.ndarray:
    numbers = np.arange(240 * 320).reshape(240, 320) // 3 % 256
    for number in range(count):
        place = folder / f"clevrtex_{variant}" / str(number // 10)
        name = f"CLEVRTEX_{variant}_{number:06d}"
        small_sets.photograph(place / f"{name}.png", 240, 320)
        small_sets.indexed(place / f"{name}_flat.png", numbers)
        (place / f"{name}.json").write_text("{}")
    return numbers


def test_clevrtex_splits_and_cut(tmp_path):
    numbers = clevrtex(tmp_path, 20)
    found = {split: CLEVRTEX(tmp_path, split, max_objects=255) for split in ("test", "val", "train")}
    numbered = [data.path(i).stem[-6:] for data in found.values() for i in range(len(data))]
    assert numbered == [f"{number:06d}" for number in range(20)]
    assert [len(data) for data in found.values()] == [2, 2, 16]
    item = CLEVRTEX(tmp_path, size=192, max_objects=255)[0]
    cut = numbers[24:216, 64:256]  # the published centre: 192 of 240
    assert np.array_equal(labels_of(item), cut)  # all numbers 0..255 are there, so they stay as they are
    with Image.open(found["train"].path(0)) as image:
        pixels = np.asarray(image)[24:216, 64:256].transpose(2, 0, 1)
    assert np.array_equal(item["images"].numpy(), pixels)
    assert set(item) == {"images", "segmentation", "visible"}
    assert CLEVRTEX(tmp_path, max_objects=255)[0]["images"].shape == (3, 128, 128)


def test_clevrtex_says_what_is_wrong(tmp_path):
    for arguments in ({"split": "all"}, {"variant": "FULL"}, {"variant": "outd", "split": "val"}):
        with pytest.raises(ValueError, match="CLEVRTEX has the variants"):
            CLEVRTEX(tmp_path, **arguments)
    with pytest.raises(ValueError, match="crop must be"):
        CLEVRTEX(tmp_path, crop=0)
    with pytest.raises(FileNotFoundError, match=r"clevrtex_full holds no CLEVRTEX_full_000000\.png"):
        CLEVRTEX(tmp_path)
    clevrtex(tmp_path, 5)
    with pytest.raises(FileNotFoundError, match="too few images for the split 'test'"):
        CLEVRTEX(tmp_path, "test")
    clevrtex(tmp_path, 3, "outd")
    outd = CLEVRTEX(tmp_path, "test", "outd", max_objects=255)
    assert len(outd) == 3
    outd.path(1).with_name("CLEVRTEX_outd_000001_flat.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"_000001_flat\.png is missing"):
        outd[1]

"""Label maps and COCO files: what is written comes back, pycocotools reads it, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from ocl.masks.base import Masks
from ocl.masks.coco import CocoFile, record, write_coco
from ocl.masks.files import read_label_map, write_label_map
from ocl.shapes import IGNORE


@pytest.mark.parametrize(("highest", "mode"), [(0, "P"), (1, "P"), (255, "P"), (256, "I;16"), (65535, "I;16")])
def test_label_maps_come_back(tmp_path: Path, highest: int, mode: str) -> None:
    labels = torch.randint(0, highest + 1, (31, 47))
    labels[0, 0] = highest
    path = write_label_map(tmp_path / "deep" / "labels.png", labels)
    assert torch.equal(read_label_map(path, (31, 47)), labels)
    assert Image.open(path).mode == mode
    assert [file.name for file in path.parent.iterdir()] == ["labels.png"]


def test_the_palette_tells_segments_apart(tmp_path: Path) -> None:
    path = write_label_map(tmp_path / "labels.png", torch.arange(256).view(16, 16))
    colors = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert colors[0].tolist() == [0, 0, 0]
    assert len(np.unique(colors, axis=0)) > 250


def test_grey_and_black_and_white_files_are_label_maps(tmp_path: Path) -> None:
    grey = np.array([[0, 7], [200, 255]], dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert read_label_map(tmp_path / "grey.png").tolist() == grey.tolist()
    Image.fromarray(grey > 100).save(tmp_path / "two.png")
    assert read_label_map(tmp_path / "two.png").tolist() == [[0, 0], [1, 1]]


def test_label_maps_that_are_refused(tmp_path: Path) -> None:
    for labels, words in (
        (torch.tensor([[0, 65536]]), r"0\.\.65535, got 0\.\.65536"),
        (torch.tensor([[IGNORE, 1]]), r"got -1\.\.1"),
        (torch.zeros(2, 2), r"\(H, W\) integer"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), r"\(H, W\) integer"),
        (torch.zeros(0, 2, dtype=torch.int64), "with pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            write_label_map(tmp_path / "labels.png", labels)
    assert not list(tmp_path.iterdir())
    path = write_label_map(tmp_path / "labels.png", torch.randint(0, 9, (40, 40)))
    with pytest.raises(ValueError, match=r"is \(40, 40\), its image \(40, 41\)"):
        read_label_map(path, (40, 41))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b"", b"not an image"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not a readable PNG file"):
            read_label_map(path)
    Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(ValueError, match=r"holds colours \(RGB\)"):
        read_label_map(path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_label_map(tmp_path / "absent.png")


def scene(count: int = 5) -> Masks:
    masks = torch.rand(1, count, 30, 40) > torch.linspace(0.3, 0.9, count).view(1, -1, 1, 1)
    masks[0, 0] = False  # an empty one, which is not written
    return Masks.of(masks, torch.linspace(0.5, 0.9, count)[None])


def test_coco_files_come_back_and_pycocotools_reads_them(tmp_path: Path) -> None:
    first, second = scene(), scene(2)
    nothing = Masks.of(torch.zeros(1, 0, 8, 9, dtype=torch.bool))
    records = [record("a.jpg", first), record("b/c.png", second), record("none.png", nothing)]
    path = write_coco(tmp_path / "coco.json", records)
    file = CocoFile(path)
    assert file.names == ["a.jpg", "b/c.png", "none.png"]
    assert torch.equal(file.masks("a.jpg").masks[0], first.masks[0, 1:])
    assert torch.allclose(file.masks("a.jpg").scores[0], first.scores[0, 1:])
    assert file.masks("none.png").masks.shape == (1, 0, 8, 9)
    assert file.segmentation("none.png").eq(0).all()
    theirs = COCO(str(path))
    annotations = theirs.loadAnns(theirs.getAnnIds(imgIds=[1]))
    assert [annotation["id"] for annotation in theirs.loadAnns(theirs.getAnnIds())] == [1, 2, 3, 4, 5]
    for annotation, mask in zip(annotations, first.masks[0, 1:].numpy(), strict=True):
        assert np.array_equal(theirs.annToMask(annotation), mask)
        assert annotation["area"] == mask.sum()
        assert annotation["bbox"] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8))).tolist()


def test_polygons_crowds_and_plain_runs(tmp_path: Path) -> None:
    square, other = [2, 2, 10, 2, 10, 8, 2, 8], [20, 20, 29, 20, 24, 28]
    crowd = torch.zeros(30, 40, dtype=torch.bool)
    crowd[:10, :20] = True
    runs = record("", Masks.of(crowd[None, None]))["annotations"][0]["segmentation"]
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 30, "width": 40}],
        "annotations": [
            {"image_id": 7, "segmentation": [square, other]},
            {"image_id": 7, "segmentation": {"size": [30, 40], "counts": [0, 5, 1195]}, "iscrowd": 0},
            {"image_id": 7, "segmentation": runs, "iscrowd": 1},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    file = CocoFile(tmp_path / "coco.json")
    masks = file.masks("a.jpg")
    assert masks.valid.tolist() == [[True, True]]
    assert masks.masks[0, 1].nonzero().tolist() == [[y, 0] for y in range(5)]
    drawn = Image.new("1", (40, 30))
    ImageDraw.Draw(drawn).polygon(square, fill=1)
    ImageDraw.Draw(drawn).polygon(other, fill=1)
    pillow = torch.from_numpy(np.asarray(drawn).copy())
    union = (pillow | masks.masks[0, 0]).sum()
    assert (pillow & masks.masks[0, 0]).sum() / union > 0.75  # Pillow draws the outline too
    assert masks.masks[0, 0, 3:8, 3:10].all()
    labels = file.segmentation("a.jpg")
    assert torch.equal(labels == IGNORE, crowd & ~masks.masks[0].any(0))
    assert torch.equal(labels > 0, masks.masks[0].any(0))


def test_coco_files_that_are_refused(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "coco.json", [record("a.jpg", scene())])
    whole = path.read_text()
    with pytest.raises(ValueError, match=r"knows no image b\.jpg; it has a\.jpg"):
        CocoFile(path).masks("b.jpg")
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not readable JSON"):
        CocoFile(path)
    for content in ({"images": []}, [1], {"images": [{"id": 1}], "annotations": []}):
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="no instances in COCO's format"):
            CocoFile(path)
    for change in ({"size": [40, 30]}, {"counts": "0"}, {"counts": [1, 2]}):
        content = json.loads(whole)
        content["annotations"][0]["segmentation"].update(change)
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"damaged segmentation of a\.jpg: "):
            CocoFile(path).masks("a.jpg")
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="at least three corners"):
        CocoFile(path).masks("a.jpg")
    with pytest.raises(ValueError, match="bool of one image"):
        record("a.jpg", Masks.of(torch.rand(1, 2, 3, 3)))


def test_images_that_are_there_twice_and_entries_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a", "height": 2, "width": 2}
    instance = {"image_id": 1, "segmentation": {"size": [2, 2], "counts": [0, 4]}}

    def file(images: list[dict[str, object]], annotation: dict[str, object]) -> CocoFile:
        path = tmp_path / "coco.json"
        path.write_text(json.dumps({"images": images, "annotations": [annotation]}))
        return CocoFile(path)

    for twin in ({**image, "id": 2}, {**image, "file_name": "b"}):
        with pytest.raises(ValueError, match="two images"):
            file([image, twin], instance)
    assert file([image], instance).masks("a").masks.all()
    for wrong in ({"score": None}, {"score": "high"}, {"segmentation": {"size": [2, 2]}}, {"segmentation": 3}):
        with pytest.raises(ValueError, match="damaged segmentation of a"):
            file([image], {**instance, **wrong}).masks("a")
    for lost in ({"height": None}, {"width": "wide"}):
        with pytest.raises(ValueError, match="damaged segmentation of a"):
            file([{**image, **lost}], instance).masks("a")

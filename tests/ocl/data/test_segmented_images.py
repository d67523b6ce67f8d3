"""ADE20K and COCO panoptic, written in their own layouts and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ocl.binding.labels import patch_labels, without
from ocl.data.ade20k import ADE20K
from ocl.data.coco_panoptic import COCOPanoptic
from ocl.data.collate import collate
from ocl.describe import describe_dataset
from ocl.shapes import IGNORE

SIDE = 40
ADE_OBJECTS = [(0, 0), (2978, 1), (2978, 2), (165, 3), (3500, 255)]
"""Class and instance; 2978 is 11 * 256 + 162."""
CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 3, "name": "car", "supercategory": "vehicle", "isthing": 1, "color": [0, 0, 142]},
    {"id": 187, "name": "sky-other-merged", "supercategory": "sky", "isthing": 0, "color": [70, 130, 180]},
]
COCO_SEGMENTS = [(70_000, 1, 0), (3, 1, 0), (16_000_000, 187, 0), (257, 3, 1)]
"""Number, category and whether a crowd; two numbers are beyond 65,535."""


def cells(seed: int, kinds: int, shape: tuple[int, int] = (SIDE, SIDE)) -> NDArray[np.int64]:
    """(H W) of cells of 10 pixels, each of one kind, every kind among them."""
    rng = np.random.default_rng(seed)
    rows, columns = shape[0] // 10, shape[1] // 10
    drawn = rng.permutation(np.arange(rows * columns) % kinds).reshape(rows, columns)
    return np.asarray(drawn.repeat(10, 0).repeat(10, 1))


def photograph(path: Path, shape: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path, quality=95)


def write_ade(folder: Path, number: int, kinds: NDArray[np.int64], split: str = "training") -> Path:
    scene = folder / "images" / "ADE" / split / "urban" / ("street" if number % 2 else "alley")
    path = scene / f"ADE_{'train' if split == 'training' else 'val'}_{number:08d}.jpg"
    photograph(path, kinds.shape)  # type: ignore[arg-type]
    classes, instances = np.array(ADE_OBJECTS)[kinds].transpose(2, 0, 1)
    colours = np.stack([classes // 256 * 10, classes % 256, instances], axis=-1).astype(np.uint8)
    Image.fromarray(colours).save(path.with_name(f"{path.stem}_seg.png"))
    Image.fromarray(colours).save(path.with_name(f"{path.stem}_parts_1.png"))
    path.with_suffix(".json").write_text("{}")
    (scene / path.stem).mkdir()  # masks of single instances, which are not read
    Image.fromarray(colours[..., 0]).save(scene / path.stem / f"instance_000_{path.stem}.png")
    return path


def write_coco(folder: Path, maps: list[NDArray[np.int64]]) -> dict[str, Any]:
    content: dict[str, Any] = {"info": {}, "licenses": [], "categories": CATEGORIES, "images": [], "annotations": []}
    for place, kinds in enumerate(maps):
        number = 900 - place  # neither in the order of the names nor of the annotations
        photograph(folder / "val2017" / f"{number:012d}.jpg", kinds.shape)  # type: ignore[arg-type]
        ids = np.array([0, *(segment for segment, _, _ in COCO_SEGMENTS)])[kinds]
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65_536], axis=-1).astype(np.uint8)
        path = folder / "annotations" / "panoptic_val2017" / f"{number:012d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours).save(path)
        segments = [
            {"id": i, "category_id": c, "iscrowd": crowd, "bbox": [0, 0, 1, 1], "area": 1}
            for i, c, crowd in COCO_SEGMENTS
        ]
        height, width = kinds.shape
        content["images"].append({"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width})
        content["annotations"].append({"image_id": number, "file_name": path.name, "segments_info": segments})
    content["images"].reverse()
    (folder / "annotations" / "panoptic_val2017.json").write_text(json.dumps(content))
    return content


def test_ade20k_objects_have_the_class_and_instance_of_their_colours(tmp_path: Path) -> None:
    maps = {number: cells(number, 5) for number in (1, 2, 3)}
    for number, kinds in maps.items():
        write_ade(tmp_path, number, kinds)
    write_ade(tmp_path, 1, cells(9, 5), "validation")
    data = ADE20K(tmp_path, "train", size=SIDE, max_objects=6, stuff=[3500])
    assert (len(data), len(ADE20K(tmp_path, "val"))) == (3, 1)
    assert [data.path(i).stem for i in range(3)] == [f"ADE_train_{n:08d}" for n in (2, 1, 3)]  # alley before street
    batch = collate([data[i] for i in range(3)])
    assert batch.segmentation is not None
    assert batch.objects["visible"].tolist() == [[True] * 4 + [False] * 2] * 3
    assert batch.objects["class"].tolist() == [[165, 2978, 2978, 3500, 0, 0]] * 3  # by class, then instance
    assert batch.objects["stuff"].tolist() == [[False] * 3 + [True] + [False] * 2] * 3
    order = torch.tensor([0, 2, 3, 1, 4])  # of `ADE_OBJECTS` among the columns, from 1; 0 is not annotated
    for item, number in zip(batch.segmentation, (2, 1, 3), strict=True):
        assert torch.equal(item, order[torch.from_numpy(maps[number])])


def test_only_what_the_cut_shows_is_numbered(tmp_path: Path) -> None:
    kinds = np.zeros((40, 120), np.int64)
    kinds[:, :40], kinds[:, 40:60], kinds[:, 60:80], kinds[:, 80:] = 1, 2, 3, 4
    write_ade(tmp_path, 1, kinds)
    item = ADE20K(tmp_path, size=20, max_objects=3)[0]
    assert item["images"].shape == (3, 20, 20)
    assert item["class"].tolist() == [165, 2978, 0]
    assert torch.equal(item["segmentation"], torch.tensor([2, 1]).repeat_interleave(10).expand(20, -1).int())


def test_ade20k_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="splits train, val, not 'test'"):
        ADE20K(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"training is not a folder; give the folder of the release"):
        ADE20K(tmp_path)
    path = write_ade(tmp_path, 1, cells(0, 5))
    write_ade(tmp_path, 3, cells(3, 5))
    with pytest.raises(ValueError, match=r"0001\.jpg shows 4 objects; read it with max_objects=4"):
        ADE20K(tmp_path, size=SIDE, max_objects=3)[0]
    with pytest.raises(ValueError, match="size and max_objects must be at least 1"):
        ADE20K(tmp_path, size=0)
    kept = ADE20K(tmp_path, skip=[path.stem])
    assert (len(kept), kept.path(0).stem) == (1, "ADE_train_00000003")
    map_path = path.with_name(f"{path.stem}_seg.png")
    whole = map_path.read_bytes()
    for damaged, message in ((whole[:60], "is not a readable image"), (b"", "is not a readable image")):
        map_path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"_seg\.png {message}"):
            ADE20K(tmp_path)[0]
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(map_path)
    with pytest.raises(ValueError, match=r"_seg\.png has the channels L, not RGB"):
        ADE20K(tmp_path)[0]
    Image.fromarray(np.zeros((SIDE, SIDE + 1, 3), np.uint8)).save(map_path)
    with pytest.raises(ValueError, match=r"The segmentation of .* is \(40, 41\), its image \(40, 40\)"):
        ADE20K(tmp_path)[0]
    map_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"_seg\.png is missing"):
        ADE20K(tmp_path)[0]


def test_coco_segments_beyond_65535_void_and_crowds(tmp_path: Path) -> None:
    maps = [cells(number, 5) for number in range(3)]
    write_coco(tmp_path, maps)
    data = COCOPanoptic(tmp_path, size=SIDE, max_objects=5)
    assert [data.path(i).stem for i in range(3)] == [f"{n:012d}" for n in (898, 899, 900)]
    assert data.class_names[187] == "sky-other-merged"
    batch = collate([data[i] for i in range(3)])
    assert batch.segmentation is not None
    # Of void, 70,000, 3, 16,000,000 and the crowd; numbered from 1 in rising order.
    order = torch.tensor([IGNORE, 2, 1, 3, IGNORE])
    for item, kinds in zip(batch.segmentation, reversed(maps), strict=True):
        assert torch.equal(item, order[torch.from_numpy(kinds)])
    assert batch.objects["class"].tolist() == [[1, 1, 187, 0, 0]] * 3
    assert batch.objects["stuff"].tolist() == [[False, False, True, False, False]] * 3
    assert batch.objects["visible"].tolist() == [[True] * 3 + [False] * 2] * 3
    # Numbers are small again, so that patches can be labelled; stuff can be left out.
    found = patch_labels(without(batch.segmentation, batch.objects["stuff"]), (4, 4)).labels
    assert set(found.unique().tolist()) == {IGNORE, 1, 2}


def test_coco_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="splits train, val, not 'test'"):
        COCOPanoptic(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match=r"panoptic_val2017\.json is missing; unpack"):
        COCOPanoptic(tmp_path)
    content = write_coco(tmp_path, [cells(0, 5), cells(1, 5)])
    path = tmp_path / "annotations" / "panoptic_val2017.json"
    assert describe_dataset(COCOPanoptic(tmp_path)) == describe_dataset(COCOPanoptic(tmp_path))
    content["annotations"][0]["segments_info"].pop()  # number 900: the crowd
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"000900\.png shows segment 257, which its annotation does not list"):
        COCOPanoptic(tmp_path)[1]
    for broken in ({"images": []}, [], {**content, "categories": [{"id": 1}]}, {**content, "images": []}):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match="is not in the form of COCO panoptic"):
            COCOPanoptic(tmp_path)
    path.write_text(json.dumps(content)[:-5])
    with pytest.raises(ValueError, match="is not readable JSON"):
        COCOPanoptic(tmp_path)
    path.write_text(json.dumps({**content, "annotations": []}))
    with pytest.raises(FileNotFoundError, match="lists no photograph"):
        COCOPanoptic(tmp_path)
    path.write_text(json.dumps(content))
    (tmp_path / "val2017" / "000000000899.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"000899\.jpg is missing; unpack the photographs"):
        COCOPanoptic(tmp_path)
    (tmp_path / "annotations" / "panoptic_val2017" / "000000000900.png").unlink()
    content["annotations"] = content["annotations"][:1]
    path.write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"000900\.png is missing; restore the annotations"):
        COCOPanoptic(tmp_path)[0]

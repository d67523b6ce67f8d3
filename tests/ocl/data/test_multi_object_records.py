"""CLEVR with masks and Multi-dSprites, written as published and read back, also through a store."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ocl.data.few_objects import FewObjects
from ocl.data.multi_object_records import CLEVRWithMasks, MultiDSpritesRecords
from ocl.data.textured_scenes import TexturedScenes
from ocl.generate import generate
from tests import small_sets

RNG = np.random.default_rng(0)


def clevr_record() -> tuple[bytes, np.ndarray, np.ndarray]:
    """A record, its pixels and its entities (240 320): 0 the background."""
    pixels = RNG.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    entities = RNG.integers(0, 5, (24, 32)).repeat(10, 0).repeat(10, 1)
    masks = np.where(entities == np.arange(11)[:, None, None], 255, 0).astype(np.uint8)
    places = np.zeros((11, 3), np.float32)
    places[1:3] = [[64, 29, 8], [160, 125, 9]]
    codes = {name: np.arange(11, dtype=np.uint8) for name in ("shape", "color", "material", "size")}
    floats = {name: np.zeros(11, np.float32) for name in ("x", "y", "z", "rotation", "visibility")}
    record = small_sets.example(image=pixels, mask=masks[..., None], pixel_coords=places, **codes, **floats)
    return record, pixels, entities


def test_clevr_with_masks(tmp_path):
    records, pixels, entities = zip(*(clevr_record() for _ in range(3)), strict=True)
    path = tmp_path / "clevr_with_masks_train.tfrecords"
    small_sets.write_records(path, list(records), compressed=True)
    data = CLEVRWithMasks(path, last=3, size=192)
    item = data[1]
    assert np.array_equal(item["images"], pixels[1][29:221, 64:256].transpose(2, 0, 1))
    assert np.array_equal(item["segmentation"], entities[1][29:221, 64:256])
    assert item["visible"].tolist() == [True] * 4 + [False] * 6
    assert item["shape"].tolist() == list(range(1, 11))
    assert item["position"][:2].tolist() == [[0, 0], [0.5, 0.5]]
    assert np.array_equal(
        CLEVRWithMasks(path, last=3, size=192, top=24)[1]["segmentation"], entities[1][24:216, 64:256]
    )
    assert CLEVRWithMasks(path)[0]["images"].shape == (3, 128, 128)
    # In a store they can be read in any order.
    stored = generate(CLEVRWithMasks(path, first=1, last=3, size=32), tmp_path / "stored", shard_size=1, progress=False)
    expected = CLEVRWithMasks(path, last=3, size=32)
    assert len(stored) == 2
    assert all(torch.equal(stored[1][name], value) for name, value in expected[2].items())
    with pytest.raises(IndexError, match="ends after 3 records"):
        CLEVRWithMasks(path)[3]
    with pytest.raises(IndexError, match="has 3 items; there is none at index 3"):
        data[3]
    for arguments in ({"first": 3, "last": 3}, {"first": -1}, {"size": 0}):
        with pytest.raises(ValueError, match="records are 0 <= first < last"):
            CLEVRWithMasks(path, **arguments)
    with pytest.raises(ValueError, match="top must leave 192 of 240 rows"):
        CLEVRWithMasks(path, top=49)
    with pytest.raises(FileNotFoundError, match="is missing; see the card"):
        CLEVRWithMasks(tmp_path / "other")


@pytest.mark.parametrize("entities", [4, 5, 6])
def test_multi_dsprites_masks_lie_across(tmp_path, entities):
    channels = 1 if entities == 4 else 3
    pixels = RNG.integers(0, 256, (64, 64, channels), dtype=np.uint8)
    owner = RNG.integers(0, entities - 1, (64, 64))  # the last entity is hidden
    masks = np.where(owner[..., None] == np.arange(entities), 255, 0).astype(np.uint8)[..., None]
    floats = {
        name: np.arange(entities, dtype=np.float32)
        for name in ("x", "y", "scale", "shape", "orientation", "visibility")
    }
    colors = RNG.random((entities, channels)).astype(np.float32)
    path = tmp_path / "a.tfrecords"
    record = small_sets.example(image=pixels, mask=masks, color=colors, **floats)
    small_sets.write_records(path, [record], compressed=True)
    item = MultiDSpritesRecords(path, entities=entities)[0]
    assert np.array_equal(item["images"], np.broadcast_to(pixels, (64, 64, 3)).transpose(2, 0, 1))
    assert np.array_equal(item["segmentation"], owner)
    assert item["visible"].tolist() == [True] * (entities - 2) + [False]
    assert item["shape"].tolist() == list(range(1, entities))
    assert np.array_equal(item["rgb"], np.broadcast_to(colors[1:], (entities - 1, 3)))
    other = 9 - entities if entities != 6 else 5
    with pytest.raises(ValueError, match=r"Record 0 of .*a\.tfrecords is none of MultiDSpritesRecords"):
        MultiDSpritesRecords(path, entities=other)[0]
    with pytest.raises(ValueError, match="is none of CLEVRWithMasks"):
        CLEVRWithMasks(path)[0]
    with pytest.raises(ValueError, match="4, 5 or 6 entities"):
        MultiDSpritesRecords(path, entities=7)


def test_scenes_of_few_objects(tmp_path):
    drawn = TexturedScenes(64, image_size=32)
    stored = generate(drawn, tmp_path, progress=False)
    counts = [int(drawn[i]["visible"].sum()) for i in range(64)]
    assert len(set(counts)) > 1
    kept = [i for i in range(64) if counts[i] <= sorted(counts)[20]]
    few = FewObjects(stored, most=sorted(counts)[20])
    assert len(few) == len(kept) < 64
    for place in (0, len(kept) // 2, -1):
        assert all(torch.equal(value, drawn[kept[place]][name]) for name, value in few[place].items())
    with pytest.raises(IndexError):
        few[len(few)]
    with pytest.raises(ValueError, match="no stored scene shows at most -1 objects; the emptiest shows"):
        FewObjects(stored, most=-1)
    with pytest.raises(ValueError, match="visible"):
        FewObjects(generate(Unseen(), tmp_path / "other", progress=False))


class Unseen(Dataset):
    """Images of which nothing is known."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"images": torch.zeros(3, 4, 4, dtype=torch.uint8)}

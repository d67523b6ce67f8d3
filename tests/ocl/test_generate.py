import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ocl.data.boxes import WithBoxes
from ocl.data.collate import collate
from ocl.data.multi_dsprites import ColoredOnGrayscaleMultiDSprites
from ocl.data.stored import StoredScenes
from ocl.data.tetrominoes import SHAPES, Tetrominoes
from ocl.generate import generate
from ocl.store import ShardWriter


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def same(a, b):
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def test_a_set_around_another_is_told_from_one_around_a_third(tmp_path):
    def boxed(seed):
        return WithBoxes(ColoredOnGrayscaleMultiDSprites(8, seed=seed))

    generate(boxed(0), tmp_path / "store", progress=False)
    with pytest.raises(ValueError, match="already holds features of another origin"):
        generate(boxed(1), tmp_path / "store", progress=False)


def test_items_come_back_as_they_were(tmp_path):
    scenes = ColoredOnGrayscaleMultiDSprites(150, seed=3)
    stored = generate(scenes, tmp_path / "store", shard_size=70, progress=False)
    assert len(stored) == 150
    assert stored.image_size == (64, 64)
    assert stored.categories == {"shape": ("square", "ellipse", "heart")}
    order = np.random.default_rng(0).permutation(150)
    assert all(same(item, scenes[int(i)]) for item, i in zip(stored.__getitems__(order), order, strict=True))
    assert same(stored[-1], scenes[149])
    for a, b in zip(
        DataLoader(stored, 50, collate_fn=collate, num_workers=2),
        DataLoader(scenes, 50, collate_fn=collate),
        strict=True,
    ):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.segmentation, b.segmentation)
        assert a.objects.keys() == b.objects.keys()
    assert set(StoredScenes(tmp_path / "store", ["images"])[0]) == {"images"}
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["seed"] == 3
    assert manifest["config"]["dataset"]["size"] == 150


def test_workers_of_both_kinds_write_the_same_bytes(tmp_path):
    scenes = Tetrominoes(500, shapes=("O0", "T2"))
    generate(scenes, tmp_path / "one", shard_size=100, progress=False)
    generate(scenes, tmp_path / "two", shard_size=100, num_workers=2, progress=False)
    assert [
        generate(scenes, tmp_path / "three", shard_size=100, worker=w, workers=3, progress=False) is None
        for w in (2, 0, 1)
    ] == [True, True, False]
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")


def test_finished_shards_are_kept(tmp_path):
    scenes = Tetrominoes(300)
    generate(scenes, tmp_path, shard_size=100, progress=False)
    before = contents(tmp_path)
    kept = tmp_path / "shard-00001.safetensors"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "shard-00000.safetensors").unlink()
    (tmp_path / "shard-00002.safetensors").write_bytes(before["shard-00002.safetensors"][:5000])
    generate(scenes, tmp_path, shard_size=100, progress=False)
    assert contents(tmp_path) == before
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "other", [Tetrominoes(300, seed=1), Tetrominoes(300, shapes=SHAPES[:5]), Tetrominoes(300, block=16)]
)
def test_another_data_set_is_refused(tmp_path, other):
    generate(Tetrominoes(300), tmp_path, shard_size=100, progress=False)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"another origin .* differs in dataset"):
        generate(other, tmp_path, shard_size=100, progress=False)
    assert contents(tmp_path) == before


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    program = (
        "import sys\n"
        "from ocl.data.tetrominoes import Tetrominoes\n"
        "from ocl.generate import generate\n"
        "print('ready', flush=True)\n"
        "generate(Tetrominoes(40_000), sys.argv[1], shard_size=200, progress=False)\n"
    )
    generate(Tetrominoes(40_000), tmp_path / "whole", shard_size=200, progress=False)
    rng = np.random.default_rng(0)
    killed = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "broken")], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
    assert killed >= 1
    generate(Tetrominoes(40_000), tmp_path / "broken", shard_size=200, progress=False)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_frames_of_any_origin_are_readable(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, size=(30, 3, 8, 9), dtype=np.uint8)
    writer = ShardWriter(tmp_path, {"environment": "somebody's"}, records=30, shard_size=16)
    for shard in writer.missing():
        writer.write(shard, {"images": frames[writer.range(shard)]})
    writer.finalize()
    stored = StoredScenes(tmp_path)
    assert stored.image_size == (8, 9)
    assert stored.categories == {}
    np.testing.assert_array_equal(torch.stack([stored[i]["images"] for i in range(30)]).numpy(), frames)


def test_what_is_no_set_of_images_is_refused(tmp_path):
    writer = ShardWriter(tmp_path, {}, records=2)
    writer.write(0, {"vectors": np.zeros((2, 3), np.float32)})
    writer.finalize()
    with pytest.raises(ValueError, match='must hold and give "images"'):
        StoredScenes(tmp_path)
    with pytest.raises(ValueError, match="has no field mask; it has vectors"):
        StoredScenes(tmp_path, ["mask"])
    with pytest.raises(FileNotFoundError):
        StoredScenes(tmp_path / "nowhere")


def test_items_must_agree(tmp_path):
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match='must hold "images"'):
        generate([{"image": image}], tmp_path / "a", description="a list", progress=False)
    with pytest.raises(ValueError, match="the same shapes"):
        generate([{"images": image}, {"images": image[:, :2]}], tmp_path / "b", description="a list", progress=False)

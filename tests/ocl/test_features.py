"""Extraction writes what the encoder gives, whoever does it and however often it is killed."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ocl.bfloat16 import tensor_of
from ocl.data.collate import collate
from ocl.features import as_slots, extract, stored_as
from ocl.representations import ObjectEncoder, OracleObjects, Pixels, RandomCNN
from ocl.shapes import Batch, Slots
from ocl.store import FeatureStore

SIZE, OBJECTS = 150, 3


class Frames(Dataset[dict[str, Tensor]]):
    def __init__(self, size: int = SIZE, seed: int = 0) -> None:
        self.size, self.seed = size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = np.random.default_rng([self.seed, index])
        return {
            "images": torch.from_numpy(generator.integers(0, 256, (3, 16, 16), dtype=np.uint8)),
            "segmentation": torch.from_numpy(generator.integers(-1, OBJECTS + 1, (16, 16))),
            "visible": torch.from_numpy(generator.random(OBJECTS) < 0.7),
            "position": torch.from_numpy(generator.random((OBJECTS, 2), dtype=np.float32)),
            "shape": torch.from_numpy(generator.integers(0, 4, OBJECTS)),
        }


def encoder() -> ObjectEncoder:
    return RandomCNN((16, 16), dim=8, strides=(2, 2), seed=0)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which names the command line."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


ARGUMENTS: dict[str, Any] = {"shard_size": 40, "batch_size": 16, "masks": True, "progress": False}


def test_store_holds_the_encoders_slots_and_the_labels(tmp_path: Path) -> None:
    frames = Frames()
    store = extract(encoder(), frames, tmp_path, labels=["visible", "position", "shape", "segmentation"], **ARGUMENTS)
    assert store is not None
    assert len(store) == SIZE
    indices = [149, 0, 77]
    batch = collate([frames[i] for i in indices])
    slots = encoder()(batch)
    stored = store.read(indices)
    found = as_slots(stored)
    assert found.masks is not None
    assert slots.masks is not None
    torch.testing.assert_close(found.vectors, slots.vectors, rtol=1e-3, atol=1e-3)  # half precision
    torch.testing.assert_close(found.masks, slots.masks, rtol=0, atol=0.5 / 255 + 1e-6)
    assert torch.equal(found.valid, slots.valid)
    assert batch.segmentation is not None
    np.testing.assert_array_equal(stored["segmentation"], batch.segmentation.numpy())
    for name, values in batch.objects.items():
        np.testing.assert_array_equal(stored[name], values.numpy())
    assert store.provenance["fingerprint"] == encoder().fingerprint
    assert store.provenance["dataset"] == {"class": f"{__name__}.Frames", "seed": 0, "size": SIZE}
    assert (tmp_path / "manifest.json").is_file()


def test_float32_is_exact_and_invalid_slots_are_zero(tmp_path: Path) -> None:
    oracle = OracleObjects(OBJECTS, {"position": 2}, {"shape": 4})
    store = extract(oracle, Frames(), tmp_path, dtype="float32", shard_size=64, batch_size=64, progress=False)
    assert store is not None
    truth = oracle(collate([Frames()[i] for i in range(SIZE)]))
    found = as_slots(store.read_all())
    assert torch.equal(found.vectors, truth.vectors)
    assert torch.equal(found.valid, truth.valid)
    assert not found.vectors[~found.valid].any()
    assert found.masks is None


def test_bfloat16_is_the_nearest_one_and_ends_at_its_largest(tmp_path: Path) -> None:
    exact, halves = (
        extract(encoder(), Frames(), tmp_path / dtype, dtype=dtype, shard_size=64, batch_size=64, progress=False)
        for dtype in ("float32", "bfloat16")
    )
    assert exact is not None
    assert halves is not None
    truth = tensor_of(exact.read_all()["vectors"])
    found = halves.read([7, 3, 149])["vectors"]
    assert tensor_of(found).dtype == torch.bfloat16
    assert torch.equal(tensor_of(found), truth[[7, 3, 149]].bfloat16())
    assert torch.equal(as_slots(halves.read_all()).vectors, truth.bfloat16().float())
    size = {name: len((tmp_path / name / "shard-00000.safetensors").read_bytes()) for name in ("float32", "bfloat16")}
    assert size["float32"] - size["bfloat16"] == pytest.approx(64 * 16 * 8 * 2, rel=0.02)
    with pytest.raises(ValueError, match=r"beyond bfloat16; extract with dtype='float32'"):
        stored_as(torch.tensor([3.4e38]), "bfloat16")


def test_workers_share_the_work_and_the_result_is_the_same(tmp_path: Path) -> None:
    one = extract(encoder(), Frames(), tmp_path / "one", **ARGUMENTS)
    assert one is not None
    assert extract(encoder(), Frames(), tmp_path / "three", worker=2, workers=3, **ARGUMENTS) is None
    assert extract(encoder(), Frames(), tmp_path / "three", worker=0, workers=3, **ARGUMENTS) is None
    assert extract(encoder(), Frames(), tmp_path / "three", worker=1, workers=3, num_workers=2, **ARGUMENTS) is not None
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    arguments = {**ARGUMENTS, "shard_size": 20}

    def run(folder: Path) -> None:
        extract(encoder(), Frames(800), folder, **arguments)

    start = time.perf_counter()
    run(tmp_path / "whole")
    shard_seconds = (time.perf_counter() - start) / 40
    killed, context, generator = tmp_path / "killed", multiprocessing.get_context("fork"), random.Random(0)
    for _ in range(20):
        process = context.Process(target=run, args=(killed,))
        written = len(list(killed.glob("shard-*")))
        process.start()
        # Moments are counted in shards, not seconds, so that a busy machine cannot let a run finish.
        wanted = written + generator.randint(0, 1)
        while process.is_alive() and len(list(killed.glob("shard-*"))) < wanted:
            time.sleep(0.001)
        time.sleep(generator.uniform(0, shard_seconds))
        process.kill()
        process.join()
        assert process.exitcode != 0
        with pytest.raises(FileNotFoundError):  # unfinished stores are no stores
            FeatureStore(killed)
    run(killed)
    assert contents(killed) == contents(tmp_path / "whole")


def test_finished_work_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {**ARGUMENTS, "progress": True}
    extract(encoder(), Frames(), tmp_path, **shown)
    assert f"{SIZE}/{SIZE}" in capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert extract(encoder(), Frames(), tmp_path, **shown) is not None
    assert not capsys.readouterr().out.strip(), "no bar where nothing is to do"
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_refuses_to_mix_encoders_and_data(tmp_path: Path) -> None:
    extract(encoder(), Frames(), tmp_path, **ARGUMENTS)
    with pytest.raises(ValueError, match=r"another origin.*fingerprint"):
        extract(RandomCNN((16, 16), dim=8, strides=(2, 2), seed=1), Frames(), tmp_path, **ARGUMENTS)
    with pytest.raises(ValueError, match=r"another origin.*dataset"):
        extract(encoder(), Frames(seed=1), tmp_path, **ARGUMENTS)
    with pytest.raises(ValueError, match=r"another origin.*dataset"):
        extract(encoder(), Subset(Frames(), list(range(SIZE))), tmp_path, **ARGUMENTS)


def test_descriptions_tell_subsets_apart(tmp_path: Path) -> None:
    described = []
    for number, (seed, start) in enumerate([(0, 0), (1, 0), (0, 5)]):
        subset = Subset(Frames(1000, seed), list(range(start, start + 500)))
        store = extract(Pixels((2, 2)), subset, tmp_path / str(number), progress=False)
        assert store is not None
        described.append(str(store.provenance["dataset"]))
    assert len(set(described)) == 3
    assert max(map(len, described)) < 400


class Scaled(ObjectEncoder):
    """Pixels times a number."""

    num_slots, dim = 4, 5

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def encode(self, batch: Batch) -> Slots:
        return Slots.of(Pixels((2, 2))(batch).vectors * self.factor)


def test_half_precision_overflow_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"beyond float16; extract with dtype='float32'"):
        extract(Scaled(1e6), Frames(), tmp_path / "a", progress=False)
    store = extract(Scaled(1e6), Frames(), tmp_path / "a32", dtype="float32", progress=False)
    assert store is not None
    assert store.read_all()["vectors"].max() > 65504
    for factor in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            extract(Scaled(factor), Frames(), tmp_path / "b", dtype="float32", progress=False)


def test_labels_beyond_int16_are_refused(tmp_path: Path) -> None:
    item = {"images": torch.zeros(3, 8, 8), "segmentation": torch.full((8, 8), 2**15)}
    with pytest.raises(ValueError, match=r"the label 32768, beyond int16"):
        extract(Pixels((2, 2)), [item], tmp_path, description="one", labels=["segmentation"], progress=False)  # type: ignore[arg-type]


def test_bad_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no label 'colour'; it gives position, segmentation, shape, visible"):
        extract(encoder(), Frames(), tmp_path, labels=["colour"], progress=False)
    with pytest.raises(ValueError, match="OracleObjects gives no masks"):
        extract(OracleObjects(OBJECTS, {"position": 2}, {}), Frames(), tmp_path / "b", masks=True, progress=False)
    with pytest.raises(ValueError, match="dtype must be one of"):
        extract(encoder(), Frames(), tmp_path, dtype="float8", progress=False)
    with pytest.raises(ValueError, match=r"worker must be in 0\.\.1"):
        extract(encoder(), Frames(), tmp_path / "c", worker=2, workers=2, progress=False)

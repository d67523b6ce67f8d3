"""The store returns exactly what was written, and refuses everything else in one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors

from ocl.bfloat16 import BFLOAT16, array_of, tensor_of
from ocl.shards import METADATA_KEY, open_shard
from ocl.store import FeatureStore, ShardWriter, shard_path

RECORDS, SHARD = 103, 20
PROVENANCE = {"fingerprint": "a" * 64, "dataset": {"name": "test", "seed": 0}}


def content() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "vectors": generator.standard_normal((RECORDS, 8, 12)).astype(np.float16),
        "masks": generator.integers(0, 255, (RECORDS, 8, 5, 3), dtype=np.uint8),
        "valid": generator.random((RECORDS, 8)) < 0.5,
        "label": np.arange(RECORDS, dtype=np.int64),
    }


def write(folder: Path, provenance: dict[str, Any] = PROVENANCE, workers: int = 1) -> ShardWriter:
    arrays = content()
    writer = ShardWriter(folder, provenance, RECORDS, SHARD)
    for worker in reversed(range(workers)):
        for shard in writer.missing(worker, workers):
            rows = writer.range(shard)
            writer.write(shard, {name: array[rows.start : rows.stop] for name, array in arrays.items()})
    writer.finalize()
    return writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "store")
    return tmp_path / "store"


def refused(error: BaseException) -> None:
    """One sentence: one line, one full stop at its end."""
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 400


def test_reads_what_was_written(folder: Path) -> None:
    store, truth = FeatureStore(folder), content()
    assert len(store) == RECORDS
    assert store.fields["vectors"] == ((8, 12), np.float16)
    assert store.provenance == PROVENANCE
    indices = np.random.default_rng(1).integers(0, RECORDS, 500)  # any order, with repeats
    for name, array in store.read(indices).items():
        assert array.dtype == truth[name].dtype
        np.testing.assert_array_equal(array, truth[name][indices])
    for name, array in store.read_all().items():
        np.testing.assert_array_equal(array, truth[name])
    assert list(store.read([3], ["label"])) == ["label"]
    assert store.read([])["vectors"].shape == (0, 8, 12)


def test_shards_are_plain_safetensors(folder: Path) -> None:
    np.testing.assert_array_equal(load_file(shard_path(folder, 1))["label"], np.arange(SHARD, 2 * SHARD))


def test_bfloat16_is_kept_bit_by_bit_and_read_by_others(tmp_path: Path) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(4, -1)  # every one there is
    tensor = bits.view(torch.bfloat16)
    writer = ShardWriter(tmp_path, PROVENANCE, 4, 2)
    for shard in writer.missing():
        rows = writer.range(shard)
        halves = array_of(tensor[rows.start : rows.stop])
        writer.write(shard, {"tokens": halves, "label": np.arange(rows.start, rows.stop)})
    writer.finalize()
    store = FeatureStore(tmp_path)
    assert store.fields["tokens"] == ((2**14,), BFLOAT16)
    assert torch.equal(tensor_of(store.read([3, 0])["tokens"]).view(torch.int16), bits[[3, 0]])
    assert torch.equal(tensor_of(store.read_all()["tokens"]).view(torch.int16), bits)
    theirs = load_tensors(shard_path(tmp_path, 1))
    assert theirs["tokens"].dtype == torch.bfloat16
    assert torch.equal(theirs["tokens"].view(torch.int16), bits[2:])
    assert theirs["label"].tolist() == [2, 3]


def test_random_batches_are_a_seeded_partition(folder: Path) -> None:
    store = FeatureStore(folder)

    def labels(**arguments: Any) -> list[int]:
        return [int(i) for batch in store.random_batches(16, 7, fields=["label"], **arguments) for i in batch["label"]]

    assert sorted(labels()) == list(range(RECORDS))
    assert labels() == labels() != labels(epoch=1)
    assert sorted(labels(among=range(50, 60))) == list(range(50, 60))


def test_number_of_workers_and_order_change_no_byte(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "three", workers=3)
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "three").iterdir())
    assert all((folder / name).read_bytes() == (tmp_path / "three" / name).read_bytes() for name in names)


def test_resume_writes_only_what_is_missing_or_damaged(folder: Path) -> None:
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    shard_path(folder, 4).unlink()
    shard_path(folder, 2).write_bytes(whole[shard_path(folder, 2).name][:-1])
    writer = ShardWriter(folder, PROVENANCE, RECORDS, SHARD)
    assert writer.missing() == [2, 4]
    assert writer.missing(1, 2) == []
    with pytest.raises(ValueError, match="missing or damaged") as caught:
        writer.finalize()
    refused(caught.value)
    write(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_survives_pickling_without_its_bytes(folder: Path) -> None:
    store = FeatureStore(folder)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).read([5])["vectors"], store.read([5])["vectors"])


def test_refuses_to_mix_origins(folder: Path) -> None:
    other = {**PROVENANCE, "fingerprint": "b" * 64}
    with pytest.raises(ValueError, match=r"another origin.*fingerprint") as caught:
        ShardWriter(folder, other, RECORDS, SHARD).missing()
    refused(caught.value)
    with pytest.raises(ValueError, match="expected b") as caught:
        FeatureStore(folder, expect_fingerprint="b" * 64)
    refused(caught.value)
    FeatureStore(folder, expect_fingerprint="a" * 64)


def test_refuses_a_shard_of_another_store(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", {**PROVENANCE, "fingerprint": "b" * 64})
    shutil.copy(shard_path(tmp_path / "other", 3), shard_path(folder, 3))
    with pytest.raises(ValueError, match="not the file") as caught:
        FeatureStore(folder, verify=False)
    refused(caught.value)


def test_refuses_shards_with_different_fields(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, PROVENANCE, 4, 2)
    writer.write(0, {"vectors": np.zeros((2, 3), np.float16)})
    writer.write(1, {"vectors": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match="float16") as caught:
        writer.finalize()
    refused(caught.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((3, 2))}, "needs 2 records"),
        ({"x": np.array(["a", "b"])}, "of numbers"),
        ({"x": np.array([{}, {}], dtype=object)}, "of numbers"),
        ({}, "at least one array"),
    ],
)
def test_writer_refuses(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        ShardWriter(tmp_path, PROVENANCE, 4, 2).write(0, arrays)
    refused(caught.value)


@pytest.mark.parametrize(
    ("indices", "error"),
    [([RECORDS], IndexError), ([-1], IndexError), ([0.5], TypeError), ([[1, 2]], TypeError), ([True], TypeError)],
)
def test_refuses_bad_indices(folder: Path, indices: list[Any], error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        FeatureStore(folder).read(indices)
    refused(caught.value)


def test_refuses_unknown_fields(folder: Path) -> None:
    for fields in (["slots"], "vectors"):
        with pytest.raises(ValueError, match=r"it has \['label'") as caught:
            FeatureStore(folder).read([0], fields)
        refused(caught.value)


def test_refuses_missing_parts(folder: Path, tmp_path: Path) -> None:
    shard_path(folder, 2).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        FeatureStore(folder)
    refused(caught.value)
    (folder / "index.json").unlink()
    for absent in (folder, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"index\.json") as caught:
            FeatureStore(absent)
        refused(caught.value)


def test_every_truncation_is_refused(folder: Path) -> None:
    path = shard_path(folder, 1)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for size in [*range(12), 8 + header // 2, 8 + header - 1, 8 + header, 9 + header, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError) as caught:
            FeatureStore(folder, verify=False)
        refused(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError):
        FeatureStore(folder, verify=False)


def test_every_altered_byte_is_refused(folder: Path) -> None:
    """Header bytes even without checksums; payload bytes by the checksums that opening compares."""
    path = shard_path(folder, 1)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    for position in [*range(0, 8 + header, 7), *np.random.default_rng(0).integers(8 + header, len(whole), 20)]:
        altered = bytearray(whole)
        altered[position] ^= 1
        path.write_bytes(altered)
        with pytest.raises(ValueError) as caught:
            FeatureStore(folder, verify=bool(position >= 8 + header))
        refused(caught.value)


class Executed(Exception):
    pass


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from pathlib import Path; Path('executed').touch()",)


def test_pickles_and_other_files_are_refused_unexecuted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for other in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), b"\x93NUMPY" + bytes(100), b"", b"{}"):
        shard_path(folder, 0).write_bytes(other)
        with pytest.raises(ValueError, match="safetensors") as caught:
            FeatureStore(folder)
        refused(caught.value)
    assert not Path("executed").exists()


def crafted(header: Any, payload: bytes) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + payload


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 2**62]},
        {"dtype": "F16", "shape": [2**62], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [2**32, 2**32], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [-2, -2], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [8, 0]},
        {"dtype": "F16", "shape": [4], "data_offsets": [-8, 0]},
        {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F16", "shape": [2], "data_offsets": [4, 8]},
        {"dtype": "F16", "shape": [4.0], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": ["4"], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": 4, "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [True], "data_offsets": [0, 2]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": ["F16"], "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4]},
        [],
        None,
    ],
)
def test_absurd_headers_are_refused(tmp_path: Path, entry: Any) -> None:
    path = tmp_path / "shard-00000.safetensors"
    path.write_bytes(crafted({"__metadata__": {METADATA_KEY: "{}"}, "x": entry}, bytes(8)))
    with pytest.raises(ValueError) as caught:
        open_shard(path)
    refused(caught.value)


def test_unreadable_headers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.safetensors"
    overlap = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
    metadata = {"__metadata__": {METADATA_KEY: "{}"}}
    headers = [b"[" * 100_000, b"\xff\xfe", b"null", b"[]", {"x": overlap}, {**metadata, "x": overlap, "y": overlap}]
    for header in [*headers, {"__metadata__": {METADATA_KEY: 1}}, {"__metadata__": []}]:
        path.write_bytes(crafted(header, bytes(8)))
        with pytest.raises(ValueError) as caught:
            open_shard(path)
        refused(caught.value)
    save_file({"x": np.zeros(3)}, path)  # a safetensors file, but nobody's shard
    with pytest.raises(ValueError, match="not a safetensors shard"):
        open_shard(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"records": RECORDS + SHARD},
        {"records": RECORDS - 1},
        {"records": -1},
        {"records": 1e2},
        {"shard_size": 10},
        {"shards": []},
        {"shards": [None] * 6},
        {"fields": {"vectors": {"shape": [8, 12], "dtype": "object"}}},
        {"fields": {"vectors": {"shape": [8, 12], "dtype": "float32"}}},
        {"fields": None},
        {"provenance": {}},
        {"provenance": None},
    ],
)
def test_altered_index_is_refused(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError) as caught:
        FeatureStore(folder)
    refused(caught.value)


def test_unreadable_index_is_refused(folder: Path) -> None:
    for text in ("", "[]", "{", "[" * 100_000, pickle.dumps(Bomb()).decode("latin-1")):
        (folder / "index.json").write_text(text)
        with pytest.raises(ValueError) as caught:
            FeatureStore(folder)
        refused(caught.value)

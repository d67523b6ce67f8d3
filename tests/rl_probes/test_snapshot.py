"""Snapshots: exact round trip, refusal of anything damaged."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch

from rl_probes import snapshot


def tree() -> dict:
    generator = np.random.default_rng(0)
    return {
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
        "words": generator.integers(0, 2**63, 8, dtype=np.uint64),
        "transposed": generator.normal(size=(3, 5)).T,
        "tensor": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "nested": {"list": [1, 2.5, None, "text", np.int64(7), np.arange(3)], "state": generator.bit_generator.state},
    }


def test_round_trip_is_exact(tmp_path):
    written = tree()
    read = snapshot.load(snapshot.save(tmp_path / "a.safetensors", written))
    for name in ("scalar", "empty", "flags", "words", "transposed"):
        assert read[name].dtype == written[name].dtype
        assert read[name].shape == written[name].shape
        np.testing.assert_array_equal(read[name], written[name])
    np.testing.assert_array_equal(read["tensor"], written["tensor"].numpy())
    assert read["nested"]["list"][:5] == [1, 2.5, None, "text", 7]
    assert read["nested"]["state"] == written["nested"]["state"]  # 128-bit integers survive JSON
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_unknown_values_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not set"):
        snapshot.save(tmp_path / "a.safetensors", {"x": {1, 2}})
    with pytest.raises(TypeError, match="string keys"):
        snapshot.save(tmp_path / "a.safetensors", {"x": {1: 2}})
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_refused(tmp_path):
    path = snapshot.save(tmp_path / "a.safetensors", tree())
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(ValueError, match="not a readable snapshot"):
        snapshot.load(path)
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    with pytest.raises(ValueError, match="checksum"):
        snapshot.load(path)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="not a readable snapshot"):
        snapshot.load(path)
    with pytest.raises(FileNotFoundError):
        snapshot.load(tmp_path / "missing.safetensors")


def test_random_state_restores_all_three_generators(tmp_path):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    np.random.normal()  # noqa: NPY002 (leaves a cached second normal behind)
    path = snapshot.save(tmp_path / "r.safetensors", snapshot.random_state())

    def draw() -> list[float]:
        return [random.gauss(0, 1), *np.random.normal(size=3), *np.random.permutation(9), *torch.randn(3).tolist()]  # noqa: NPY002

    first = draw()
    snapshot.set_random_state(snapshot.load(path))
    assert draw() == first

"""A checkpoint gives back the same model, or one sentence; nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import ocl
from ocl import checkpoints
from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.instantiate import instantiate
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel, ObjectEncoder
from ocl.shapes import Batch
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

CONFIG: dict[str, Any] = {
    "class_path": "ocl.model.ObjectCentricModel",
    "init_args": {
        "encoder": {
            "class_path": "ocl.encoders.cnn.CNNEncoder",
            "init_args": {"image_size": [16, 16], "dim": 8, "channels": 8, "strides": [2, 2]},
        },
        "initial_slots": {"class_path": "ocl.slots.initial.RandomSlots", "init_args": {"num_slots": 3, "dim": 8}},
        "grouping": {"class_path": "ocl.slots.attention.SlotAttention", "init_args": {"dim": 8, "iterations": 2}},
        "decoder": {
            "class_path": "ocl.decoders.broadcast.BroadcastDecoder",
            "init_args": {"dim": 8, "grid": [4, 4], "channels": 4, "strides": [2, 2]},
        },
    },
}


def build() -> ObjectCentricModel:
    return ObjectCentricModel(
        CNNEncoder((16, 16), 8, 8, (2, 2)),
        RandomSlots(3, 8),
        SlotAttention(8, iterations=2),
        BroadcastDecoder(8, (4, 4), 4, (2, 2)),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.save(CONFIG, build(), tmp_path / "model", seed=3, card="# A model\n", steps=10)


def rewrite(folder: Path, change: dict[str, Any]) -> None:
    content = {**yaml.safe_load((folder / "config.yaml").read_text()), **change}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def replace_weights(folder: Path, content: bytes) -> None:
    """As an attacker would: with the checksum that fits."""
    (folder / "model.safetensors").write_bytes(content)
    rewrite(folder, {"weights_sha256": hashlib.sha256(content).hexdigest()})


def assert_refused(folder: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        checkpoints.load(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 500


def test_round_trip(folder: Path) -> None:
    torch.manual_seed(0)
    model = build()
    checkpoints.save(CONFIG, model, folder)  # over the one that is there
    state = torch.random.get_rng_state()
    loaded = checkpoints.load(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    images, noise = torch.rand(2, 3, 16, 16), torch.randn(3, 8)
    torch.testing.assert_close(
        loaded(images, noise=noise).slots.vectors, model(images, noise=noise).slots.vectors, rtol=0, atol=0
    )


def test_one_line_load_gives_the_frozen_encoder(folder: Path) -> None:
    encoder = ocl.load(folder)
    assert isinstance(encoder, ObjectEncoder)
    assert encoder.fingerprint == FrozenSlotModel(checkpoints.load(folder)).fingerprint  # type: ignore[arg-type]
    batch = Batch(torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8))
    assert torch.equal(encoder(batch).vectors, ocl.load(folder)(batch).vectors)


def test_importing_ocl_imports_no_torch() -> None:
    import subprocess

    code = "import sys, ocl; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_holds_what_it_says(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.yaml",
        "manifest.json",
        "model.safetensors",
    ]
    content = checkpoints.read_config(folder)
    assert content["model"] == CONFIG
    assert content["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert '"steps": 10' in (folder / "manifest.json").read_text()


def test_an_object_encoder_is_a_checkpoint_too(tmp_path: Path) -> None:
    config = {"class_path": "ocl.representations.RandomCNN", "init_args": {"image_size": [16, 16], "seed": 4}}
    encoder = instantiate(config)
    assert isinstance(encoder, ObjectEncoder)
    checkpoints.save(config, encoder, tmp_path)
    assert ocl.load(tmp_path).fingerprint == encoder.fingerprint


def test_a_vit_is_restored_without_fetching(tmp_path: Path) -> None:
    arguments = {
        "name": "vit_tiny_patch16_224",
        "image_size": [32, 32],
        "layer": 5,
        "pretrained": True,
        "weights": "/no",
    }
    config = {"class_path": "ocl.representations.ViTPatches", "init_args": arguments}
    encoder = instantiate(config)
    assert isinstance(encoder, ObjectEncoder)
    checkpoints.save(config, encoder, tmp_path)
    assert ocl.load(tmp_path).fingerprint == encoder.fingerprint


def test_a_module_without_slots_is_no_encoder(tmp_path: Path) -> None:
    config = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 3}}
    checkpoints.save(config, nn.Linear(2, 3), tmp_path)
    assert isinstance(checkpoints.load(tmp_path), nn.Linear)
    with pytest.raises(ValueError, match="makes no slots"):
        ocl.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (("initial_slots", "init_args", "num_slots"), "three", "RandomSlots cannot be built"),
        (("initial_slots", "init_args", "dim"), 9, r"initial_slots\.\w+ as torch.float32 \(8,\)"),
        (("grouping", "init_args", "iteration"), 2, "takes no 'iteration'; it takes dim, token_dim, iterations"),
        (("grouping", "init_args"), {}, "needs dim"),
        (
            ("projection",),
            {"class_path": "torch.nn.Linear", "init_args": {"in_features": 8, "out_features": 8}},
            "missing",
        ),
        (("decoder",), {"class_path": "ocl.decoders.nothing.Decoder"}, "does not exist here"),
    ],
)
def test_save_refuses_a_config_that_builds_something_else(
    tmp_path: Path, path: tuple[str, ...], value: Any, match: str
) -> None:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    node = config["init_args"]
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    with pytest.raises(ValueError, match=match):
        checkpoints.save(config, build(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_save_refuses_another_class_and_other_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the model is a Linear"):
        checkpoints.save(CONFIG, nn.Linear(2, 2), tmp_path)
    with pytest.raises(ValueError, match="bfloat16"):
        checkpoints.save(CONFIG, build().bfloat16(), tmp_path)
    with pytest.raises(ValueError, match="plain values"):
        checkpoints.save({**CONFIG, "init_args": {"encoder": nn.Identity()}}, build(), tmp_path)


def test_every_truncation_and_alteration_is_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        assert_refused(folder, "truncated or altered")
        replace_weights(folder, whole[:size])
        assert_refused(folder, "not a safetensors file")
        replace_weights(folder, whole)
    for position in range(0, len(whole), len(whole) // 40):
        altered = bytearray(whole)
        altered[position] ^= 1
        (folder / "model.safetensors").write_bytes(altered)
        assert_refused(folder, "truncated or altered")


def test_weights_that_do_not_fit_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "initial_slots.mu"
    cases = [
        ({key: value for key, value in weights.items() if key != name}, "missing initial_slots.mu; unexpected none"),
        ({**weights, "extra": torch.zeros(1)}, "missing none; unexpected extra"),
        ({**weights, name: torch.zeros(9)}, r"\(9,\)"),
        ({**weights, name: weights[name].double()}, "float64"),
    ]
    for case, match in cases:
        save_file(case, folder / "other")
        replace_weights(folder, (folder / "other").read_bytes())
        assert_refused(folder, match)


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("from pathlib import Path; Path('executed').touch()",)


def test_pickles_are_refused_unexecuted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.save({"weight": Bomb()}, "bomb.pt")
    for content in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), protocol=0), Path("bomb.pt").read_bytes()):
        replace_weights(folder, content)
        assert_refused(folder, "not a safetensors file")
    assert not Path("executed").exists()


EVIL = [
    {"class_path": "os.system", "init_args": {"command": "touch executed"}},
    {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "executed"]}},
    {"class_path": "builtins.exec", "init_args": {"source": "open('executed', 'w')"}},
    {"class_path": "bomb_module.Model"},
    {"class_path": "ocl_evil.Model"},
    {"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b"}},
    {"class_path": "torch.nn.modules.module.os.system", "init_args": {"command": "touch executed"}},
    {"class_path": "ocl.manifest.subprocess", "init_args": {}},
    {"class_path": "ocl.manifest.Path", "init_args": {}},
    {"class_path": "ocl.files.write_text", "init_args": {"path": "executed", "text": ""}},
    {"class_path": "ocl.instantiate.instantiate", "init_args": {"node": {"class_path": "os.system"}, "trust": True}},
    {"class_path": "ocl.__main__.main"},
    {"class_path": "ocl..model.ObjectCentricModel"},
    {"class_path": ".os.system"},
    {"class_path": "ocl"},
    {"class_path": ""},
    {"class_path": ["ocl.model.ObjectCentricModel"]},
    {"class_path": None},
    {"class_path": "torch.nn.Linear", "init_args": ["touch"]},
    {"class_path": "torch.nn.Linear", "dict_kwargs": {}},
    {"init_args": {}},
    ["os.system"],
    "os.system",
    None,
]


@pytest.mark.parametrize("node", EVIL, ids=lambda node: str(node)[:40])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_evil_configs_are_refused_before_any_import(
    folder: Path, monkeypatch: pytest.MonkeyPatch, node: Any, depth: int
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in ("bomb_module", "ocl_evil"):
        (folder / f"{name}.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    for _ in range(depth):  # deeper nodes are checked before the outer ones are built
        node = {"class_path": "ocl.model.TokenProjection", "init_args": {"token_dim": 1, "dim": [{"a": node}]}}
    rewrite(folder, {"model": node})
    assert_refused(folder, ".")
    assert not Path("executed").exists()
    assert not {"bomb_module", "ocl_evil"} & set(sys.modules)


def test_trust_is_what_admits_foreign_classes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    (folder / "my_models.py").write_text("from torch import nn\nclass Mine(nn.Linear):\n    pass\n")
    node = {"class_path": "my_models.Mine", "init_args": {"in_features": 1, "out_features": 1}}
    with pytest.raises(ValueError, match="outside the allowed packages"):
        instantiate(node)
    assert "my_models" not in sys.modules
    model = instantiate(node, trust=True)
    checkpoints.save(node, model, folder / "mine")
    assert_refused(folder / "mine", "outside the allowed packages")
    assert type(checkpoints.load(folder / "mine", trust=True)) is type(model)
    with pytest.raises(ValueError, match=r"no torch\.nn\.Module|not a torch\.nn\.Module"):
        instantiate({"class_path": "os.system", "init_args": {"command": "true"}}, trust=True)
    monkeypatch.delitem(sys.modules, "my_models")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 20_000,
        "a: !!python/object/apply:os.system ['touch executed']",
        "format: ocl-checkpoint-1\nweights_sha256: x\nmodel: !!python/name:os.system",
        "a: &a [1]\nb: *a",
        "a: &a [*a]",
        "format: other\nweights_sha256: x\nmodel: {}",
        "format: ocl-checkpoint-1\nmodel: {}",
        "\x00",
        "x" * (2**20 + 1),
    ],
    ids=lambda text: repr(text[:30]),
)
def test_other_yaml_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(folder)
    (folder / "config.yaml").write_text(text)
    assert_refused(folder, "config.yaml")
    assert not Path("executed").exists()


def test_missing_parts_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors does not exist"):
        checkpoints.load(folder)
    (folder / "config.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist"):
        checkpoints.load(folder)

"""Zero-shot classification against open_clip's own functions, on a small model that was never trained."""

from __future__ import annotations

import builtins
import json
import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ocl.masks.zero_shot import ClipImages, ZeroShotClassifier

NAMES = ["Black-footed Albatross", "bald eagle", "owl"]
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    model = open_clip.create_model(f"local-dir:{folder}")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("templates", [["A photo of {}"], ["A photo of {}", "a drawing of the {}.", "{}"]])
def test_logits_are_a_hundred_cosines(folder: Path, templates: list[str]) -> None:
    name = f"local-dir:{folder}"
    classifier = ZeroShotClassifier(ClipImages(name), NAMES, templates)
    model = open_clip.create_model(name).eval()
    tokenizer = open_clip.get_tokenizer(name)
    normalise = open_clip.image_transform(32, is_train=False, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).transforms[-1]
    with torch.no_grad():
        prompts = open_clip.build_zero_shot_classifier(model, tokenizer, NAMES, templates)  # (D C)
        expected = 100 * model.encode_image(normalise(images()), normalize=True) @ prompts
    torch.testing.assert_close(classifier(images()), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classifier.logits(classifier.embed(images())), expected, rtol=1e-4, atol=1e-4)
    assert classifier.embed(images()).shape == (4, classifier.dim) == (4, 24)
    torch.testing.assert_close(classifier.embed(images()).norm(dim=-1), torch.ones(4))


def test_prompts_are_those_of_encode_text(folder: Path) -> None:
    encoder = ClipImages(f"local-dir:{folder}")
    texts = [f"A photo of {name}" for name in NAMES]
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(encoder.model.encode_text(tokens), dim=-1)
    torch.testing.assert_close(ZeroShotClassifier(encoder, NAMES).prompts, expected)


def test_frozen_and_fingerprinted(folder: Path) -> None:
    encoder = ClipImages(f"local-dir:{folder}")
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.train().modules())
    print_before = encoder.fingerprint
    encoder(images())
    assert encoder.fingerprint == print_before == ClipImages(f"local-dir:{folder}").fingerprint
    encoder.model.visual.proj.data[0, 0] += 1
    assert encoder.fingerprint != print_before


def test_weights_from_a_file(folder: Path, tmp_path: Path) -> None:
    open_clip.add_model_config(_named(tmp_path, "tiny-test-clip"))
    torch.manual_seed(1)
    random, stored = ClipImages("tiny-test-clip"), ClipImages("tiny-test-clip", str(folder / "model.safetensors"))
    expected = ClipImages(f"local-dir:{folder}").model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stored.model.state_dict().items())
    assert not torch.equal(random.model.visual.proj, stored.model.visual.proj)
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors does not hold the weights of tiny-test-clip \(.*\)\.$"):
        ClipImages("tiny-test-clip", str(tmp_path / "cut.safetensors"))
    with pytest.raises(ValueError, match=r"does not hold the weights of ViT-B-32 \(.*\)\.$"):
        ClipImages("ViT-B-32", str(folder / "model.safetensors"))


def _named(folder: Path, name: str) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIG["model_cfg"]))
    return path


def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ClipImages(f"local-dir:{folder}")
    for templates in ([], ["A photo"], "A photo of {}", ["{} and {}"]):
        with pytest.raises(ValueError, match="templates must be"):
            ZeroShotClassifier(encoder, NAMES, templates)
    with pytest.raises(ValueError, match="open_clip knows no model ViT-Q-99"):
        ClipImages("ViT-Q-99")
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no open_clip_config.json"):
        ClipImages(f"local-dir:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="brings its own weights"):
        ClipImages(f"local-dir:{folder}", "openai")
    with pytest.raises(FileNotFoundError, match=r"absent.pt is neither a file nor one of open_clip's tags for"):
        ClipImages("ViT-B-32", "absent.pt")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match="does not hold the weights"):
        ClipImages(f"local-dir:{tmp_path}")


def test_weights_that_cannot_be_fetched_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(os.environ, "HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"weights laion400m_e32 of ViT-B-32 are not in the cache .*"):
        ClipImages("ViT-B-32", "laion400m_e32")


def test_without_open_clip_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "open_clip":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install 'ocl-research\[clip\]'"):
        ClipImages("ViT-B-32")

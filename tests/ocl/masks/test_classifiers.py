"""Classifiers against what they are made of: timm's own answer, scikit-learn's own answer, groups by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ocl import checkpoints
from ocl.encoders.cnn import CNNEncoder
from ocl.masks.classifiers import Classifier, LinearHead, SuperClasses, TimmClassifier
from ocl.masks.image_encoders import ImageEncoder, TimmImages, TokenMean

NAMES = ["cat", "dog", "owl"]


class Vectors(ImageEncoder):
    """The image's own numbers, for heads to be tested on vectors that are known."""

    image_size, dim = 2, 12

    def encode(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def pictures(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "mobilenetv3_small_050", "vgg11"]
)
def test_logits_are_those_of_the_timm_model(name: str) -> None:
    classifier = TimmClassifier(name, image_size=64, pretrained=False)
    model = timm.create_model(name, **({"img_size": 64} if name.startswith("vit") else {})).eval()
    model.load_state_dict(classifier.encoder.model.state_dict())
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = pictures(64)
    with torch.no_grad():
        expected = model((images - mean) / std)
        torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(classifier.logits(classifier.embed(images)), expected, rtol=1e-4, atol=1e-5)
        assert classifier.embed(images).shape == (2, classifier.dim)
    assert len(classifier.classes) == 1000
    assert classifier.classes[0] == "n01440764"


def test_a_vit_is_given_its_own_size() -> None:
    assert TimmClassifier("vit_tiny_patch16_384", pretrained=False).image_size == 384


def test_classifiers_are_frozen() -> None:
    classifier = TimmClassifier("resnet18", NAMES, 32, pretrained=False)
    assert not any(module.training for module in classifier.train().modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    images = pictures(32).requires_grad_()
    classifier(images).sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0, "images may ask for gradients"


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    trained = timm.create_model("resnet18", num_classes=3).eval()
    save_file(trained.state_dict(), tmp_path / "cats.safetensors")
    classifier = TimmClassifier("resnet18", NAMES, weights=str(tmp_path / "cats.safetensors"))
    assert torch.equal(classifier.encoder.model.fc.weight, trained.fc.weight)
    headless = TimmImages("resnet18", weights=str(tmp_path / "cats.safetensors"), num_classes=3)
    assert torch.equal(headless(pictures(224)), classifier.embed(pictures(224)))
    with pytest.raises(ValueError, match=r"cats.safetensors does not hold the weights of resnet18"):
        TimmClassifier("resnet18", ["cat", "dog"], weights=str(tmp_path / "cats.safetensors"))
    with pytest.raises(ValueError, match="does not hold the weights of vit_tiny_patch16_224"):
        TimmClassifier("vit_tiny_patch16_224", NAMES, weights=str(tmp_path / "cats.safetensors"))
    content = (tmp_path / "cats.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cut.safetensors does not hold the weights of resnet18 \(.*\)\.$"):
        TimmImages("resnet18", weights=str(tmp_path / "cut.safetensors"))
    torch.save(trained.state_dict(), tmp_path / "cats.pth")
    with pytest.raises(ValueError, match="not a safetensors file"):
        TimmImages("resnet18", weights=str(tmp_path / "cats.pth"))


def test_missing_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.safetensors does not exist"):
        TimmImages("resnet18", weights=str(tmp_path / "nowhere.safetensors"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"of resnet18 are not in the cache .*; give a safetensors file"):
        TimmClassifier("resnet18")
    with pytest.raises(ValueError, match="timm knows no model resnet17"):
        TimmClassifier("resnet17")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no classifier of one linear layer"):
        TimmClassifier("deit_tiny_distilled_patch16_224", pretrained=False)
    with pytest.raises(ValueError, match="different names"):
        TimmClassifier("resnet18", ["cat", "cat"], pretrained=False)
    with pytest.raises(ValueError, match=r"reads images \(n, 3, 32, 32\), got \(2, 3, 64, 64\)"):
        TimmClassifier("resnet18", NAMES, 32, pretrained=False)(pictures(64))
    with pytest.raises(ValueError, match=r"got \(2, 4, 32, 32\)"):
        TimmClassifier("resnet18", NAMES, 32, pretrained=False)(torch.rand(2, 4, 32, 32))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_a_linear_head_is_scikit_learns(count: int) -> None:
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(240) % count)
    vectors = (generator.normal(size=(240, 12)) + labels[:, None] * np.linspace(-0.3, 0.3, 12)) * 20 + 5
    vectors[:, 4] = 1.0  # a feature that never changes
    head = LinearHead(Vectors(), [str(number) for number in range(count)])
    assert torch.equal(head.logits(torch.from_numpy(vectors).float()), torch.zeros(240, count))
    head.fit(torch.from_numpy(vectors).float(), torch.from_numpy(labels), inverse_penalty=0.1)
    other = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=10_000)).fit(vectors, labels)
    unseen = generator.normal(size=(50, 12)) * 20 + 5
    found = head.logits(torch.from_numpy(unseen).float()).softmax(-1).numpy()
    np.testing.assert_allclose(found, other.predict_proba(unseen), atol=2e-3)
    assert not head.head.weight.requires_grad


def test_a_fitted_head_is_saved_as_any_module(tmp_path: Path) -> None:
    node = {
        "class_path": "ocl.masks.classifiers.LinearHead",
        "init_args": {
            "encoder": {
                "class_path": "ocl.masks.image_encoders.TokenMean",
                "init_args": {
                    "encoder": {
                        "class_path": "ocl.encoders.cnn.CNNEncoder",
                        "init_args": {"image_size": [8, 8], "dim": 4, "channels": 4, "strides": [2]},
                    }
                },
            },
            "classes": NAMES,
        },
    }
    head = LinearHead(TokenMean(CNNEncoder((8, 8), 4, 4, (2,))), NAMES)
    head.fit(head.embed(pictures(8, 60)), torch.arange(60) % 3)
    checkpoints.save(node, head, tmp_path)
    again = checkpoints.load(tmp_path)
    assert torch.equal(again(pictures(8)), head(pictures(8)))


def test_a_linear_head_refuses_what_it_cannot_learn_from() -> None:
    head = LinearHead(Vectors(), NAMES)
    with pytest.raises(ValueError, match=r"an example of each, got \[0, 2\]"):
        head.fit(torch.rand(4, 12), torch.tensor([0, 2, 0, 2]))
    with pytest.raises(ValueError, match=r"\(n, 12\)"):
        head.fit(torch.rand(4, 11), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(ValueError, match="NaN"):
        head.fit(torch.full((3, 12), torch.nan), torch.arange(3))


class Fixed(Classifier):
    """The first numbers of the image are the logits."""

    def logits(self, vectors: Tensor) -> Tensor:
        return vectors[..., : len(self.classes)]


def test_super_classes_take_the_largest_member_before_the_softmax() -> None:
    groups = SuperClasses(Fixed(Vectors(), ["a", "b", "c", "d"]), {"x": ["d", "b"], "y": ["a"]})
    vectors = torch.zeros(2, 12)
    vectors[:, :4] = torch.tensor([[1.0, 2.0, 9.0, 4.0], [0.0, -1.0, 5.0, -3.0]])
    assert torch.equal(groups.logits(vectors), torch.tensor([[4.0, 1.0], [-1.0, 0.0]]))
    assert groups.classes == ("x", "y")
    assert torch.equal(groups(vectors.view(2, 3, 2, 2)), groups.logits(vectors))
    probabilities = groups.logits(vectors).softmax(-1)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2))
    # Softmax first, as in the published Alpha-CLIP branch, gives what is no distribution.
    assert vectors[:, :4].softmax(-1)[:, [3, 1]].amax(-1)[0] + vectors[:, :4].softmax(-1)[0, 0] < 0.1


def test_super_classes_refuse_unknown_members() -> None:
    fixed = Fixed(Vectors(), ["a", "b"])
    with pytest.raises(ValueError, match=r"'x' needs a list of known classes, got \['q'\]"):
        SuperClasses(fixed, {"x": ["a", "q"]})
    with pytest.raises(ValueError, match="'x' needs a list"):
        SuperClasses(fixed, {"x": []})
    with pytest.raises(ValueError, match="'x' needs a list"):
        SuperClasses(fixed, {"x": "ab"})

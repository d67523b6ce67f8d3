"""Names of classes in front of a small CLIP that was never trained, against the published way written out."""

from __future__ import annotations

import json
from typing import Any

import open_clip
import pytest
import torch

from ocl.data.class_names import ClassNames, ImageNetNames, imagenet_names, imagenet_synsets
from ocl.masks.zero_shot import ClipImages
from ocl.occam.named_classes import NamedClasses

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


class Given(ClassNames):
    """One name stands for two of the classes."""

    members = {"small": ["mouse", "finch", "newt"], "old": ["tortoise", "newt"], "large": ["whale"]}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipImages:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps(CONFIG))
    model = open_clip.create_model(f"local-dir:{folder}")
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return ClipImages(f"local-dir:{folder}")


def test_a_class_has_the_largest_logit_of_its_names(encoder: ClipImages) -> None:
    classifier = NamedClasses(encoder, Given())
    assert classifier.classes == ("small", "old", "large")
    vectors = torch.nn.functional.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    for place, names in enumerate(Given.members.values()):
        prompts = encoder.encode_texts([f"A photo of {name}" for name in names])
        expected = (100 * vectors @ prompts.mT).amax(-1)
        torch.testing.assert_close(classifier.logits(vectors)[:, place], expected, rtol=1e-4, atol=1e-4)
    assert classifier.classifier.classes == ("mouse", "finch", "newt", "tortoise", "whale"), "each name is asked once"


def test_imagenet_by_synset() -> None:
    members = ImageNetNames().members
    assert list(members) == imagenet_synsets()
    assert len(members) == 1000
    assert list(members.values()) == [[name] for name in imagenet_names()]
    assert members["n01440764"] == ["tench"]
    assert members["n02012849"] == ["crane bird"]
    assert members["n03126707"] == ["construction crane"]
    assert members["n15075141"] == ["toilet paper"]
    places = {
        name: [place for place, other in enumerate(imagenet_names()) if other == name] for name in imagenet_names()
    }
    assert {name: found for name, found in places.items() if len(found) > 1} == {
        "missile": [657, 744],
        "sunglasses": [836, 837],
    }


def test_imagenet_has_a_thousand_classes_although_names_repeat(encoder: ClipImages) -> None:
    classifier = NamedClasses(encoder, ImageNetNames(), templates=["{}"])
    logits = classifier.logits(torch.nn.functional.normalize(torch.ones(1, 16), dim=-1))
    assert logits.shape == (1, 1000)
    assert logits[0, 657] == logits[0, 744]
    assert len(classifier.classifier.classes) == 998

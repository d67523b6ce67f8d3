"""Classes by their names: CLIP-like models through open_clip (`pip install 'ocl-research[clip]'`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.classifiers import Classifier
from ocl.masks.image_encoders import ImageEncoder

SCALE = 100.0
"""Logit = 100 times the cosine: what published zero-shot results use, whatever temperature a model has learned."""


class ClipImages(ImageEncoder):
    """An open_clip model on images, normalised as the model states. Vectors have unit length.

    Args:
        name: of `open_clip.list_models()`; OpenAI's weights need one that ends in "-quickgelu". Or "local-dir:folder"
            with an open_clip_config.json and its weights.
        weights: a tag of `open_clip.list_pretrained()`, fetched once; or a local file; None leaves the random
            initialisation (a control), except for "local-dir:", which brings its own.

    Raises:
        ImportError: open_clip is not installed.
        FileNotFoundError: weights that are not there, or not to be fetched.
        ValueError: an unknown name, or a file that does not hold the weights of this model.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str | None = None) -> None:
        super().__init__()
        self.name = name
        self.model: Any = _clip_model(name, weights)
        visual = self.model.visual
        size = visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        if height != width:
            raise ValueError(f"segments are encoded as squares; {name} reads {height} x {width}.")
        self.image_size = height
        self.register_buffer("mean", torch.tensor(visual.image_mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(visual.image_std).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train()
        self.dim = self.encode_texts(["size"]).shape[1]

    def encode(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.model.encode_image((images - self.mean) / self.std, normalize=True)
        return vectors

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> (n D) of unit length, in the space of the images."""
        import open_clip

        tokens = open_clip.get_tokenizer(self.name)(list(texts)).to(self.mean.device)
        return torch.cat([self.model.encode_text(part, normalize=True) for part in tokens.split(256)])


class ZeroShotClassifier(Classifier):
    """logit_c = 100 cos(image, class c), with class names written into prompts.

    A class's vector is the mean of the unit vectors of its prompts, scaled to unit length (prompt ensembling).

    Args:
        encoder: may be shared between classifiers.
        classes: names as they stand in the prompts.
        templates: each with one {} for the name. The default is the published Waterbirds prompt.

    Raises:
        ValueError: a template without {}.
    """

    prompts: Tensor

    def __init__(
        self, encoder: ClipImages, classes: Sequence[str], templates: Sequence[str] = ("A photo of {}",)
    ) -> None:
        super().__init__(encoder, classes)
        if not templates or isinstance(templates, str) or any(template.count("{}") != 1 for template in templates):
            raise ValueError(f"templates must be a list of texts with one {{}} each for the class, got {templates!r}.")
        self.templates = tuple(templates)
        texts = encoder.encode_texts([template.format(name) for name in self.classes for template in templates])
        prompts = texts.unflatten(0, (len(self.classes), len(templates))).mean(1)  # (C templates D) -> (C D)
        self.register_buffer("prompts", F.normalize(prompts, dim=-1), persistent=False)
        self.train()

    def logits(self, vectors: Tensor) -> Tensor:
        return SCALE * vectors @ self.prompts.mT


def _clip_model(name: str, weights: str | None) -> Any:
    """The whole open_clip model on the CPU."""
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("zero-shot classifiers need open_clip: pip install 'ocl-research[clip]'.") from error
    place = ":" in name  # "local-dir:folder" or "hf-hub:owner/model"
    folder = name.removeprefix("local-dir:")
    if folder != name and not (Path(folder) / "open_clip_config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no open_clip_config.json; give the folder of an open_clip model.")
    if place and weights is not None:
        raise ValueError(f"{name} brings its own weights; leave out weights={weights!r}.")
    if not place and name not in open_clip.list_models():
        raise ValueError(f"open_clip knows no model {name}; see open_clip.list_models().")
    file = weights is not None and Path(weights).is_file()
    if weights is not None and not file and not open_clip.is_pretrained_cfg(name, weights):
        raise FileNotFoundError(f"{weights} is neither a file nor one of open_clip's tags for {name}.")
    try:
        return open_clip.create_model(name, weights, require_pretrained=place or weights is not None)
    except Exception as error:  # whatever the reader of a damaged file, or a fetch, may raise
        reason = str(error).strip().split("\n")[0].rstrip(":. ")[:160]
        if file or folder != name:
            source = weights if file else folder
            raise ValueError(f"{source} does not hold the weights of {name} ({reason}).") from error
        raise FileNotFoundError(
            f"the weights {weights or ''} of {name} are not in the cache and cannot be fetched here; give a local file "
            f"as weights ({reason})."
        ) from error

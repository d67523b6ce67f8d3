"""Frozen encoders of square pictures, one vector each: what an object is turned into once it is cut out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ocl.describe import fingerprint


class ImageEncoder(nn.Module, ABC):
    """Images (n c S S) float in [0, 1] -> vectors (n D). Frozen and always in eval mode; images may ask for gradients.

    image_size: S. channels: c, 3 or, with alpha last, 4. dim: D.
    """

    image_size: int
    channels: int = 3
    dim: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(n c S S) -> (n D); shapes are checked already, n may be 0."""

    def forward(self, images: Tensor) -> Tensor:
        """Raises ValueError for other shapes."""
        expected = (self.channels, self.image_size, self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"{type(self).__name__} reads images (n, {', '.join(map(str, expected))}), got {tuple(images.shape)}; "
                "give the mask application this size and these channels."
            )
        return self.encode(images)

    def train(self, mode: bool = True) -> Self:
        """Frozen: stays in eval mode whatever the caller's `mode`."""
        return super().train(False)

    @property
    def fingerprint(self) -> str:
        """64 hex digits. Equal fingerprint, equal vectors."""
        return fingerprint(self)


class TokenMean(ImageEncoder):
    """The mean over the tokens of an encoder of ours.

    encoder: images (n 3 S S) float -> `Features`, with `image_size` and `dim`; is frozen in place.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        described: Any = encoder
        height, width = described.image_size
        if height != width:
            raise ValueError(f"segments are encoded as squares; the encoder reads {height} x {width}.")
        self.image_size, self.dim = height, described.dim
        self.train()

    def encode(self, images: Tensor) -> Tensor:
        vectors: Tensor = self.encoder(images).tokens.mean(1)  # (n N D) -> (n D)
        return vectors


class TimmImages(ImageEncoder):
    """Any timm model up to what its classifier reads, normalised with the mean and deviation that the model states.

    Args:
        name: timm model name, for example "resnet50.a1_in1k" or "vit_base_patch14_dinov2.lvd142m".
        image_size: S; None takes the model's own.
        pretrained: fetch the published weights; False leaves the random initialisation (a control).
        weights: a local safetensors file to load instead.
        num_classes: rows of the classifier in the file, or of an untrained one; None is as published, 0 is none.

    Raises:
        FileNotFoundError: weights that are not there, or not to be fetched.
        ValueError: a file that does not hold the weights of this model, or a size that it cannot have.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        image_size: int | None = None,
        pretrained: bool = True,
        weights: str | None = None,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.model = _timm_model(name, pretrained, weights, num_classes)
        config = self.model.pretrained_cfg
        _, height, width = config["input_size"]
        self.image_size = height if image_size is None else image_size
        if (height, width) != (self.image_size,) * 2:
            self._resize(config.get("fixed_input_size", False))
        self.dim = self.model.head_hidden_size
        self.register_buffer("mean", torch.tensor(config["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.train()

    def encode(self, images: Tensor) -> Tensor:
        features = self.model.forward_features((images - self.mean) / self.std)
        vectors: Tensor = self.model.forward_head(features, pre_logits=True)
        return vectors

    def _resize(self, fixed: bool) -> None:
        if hasattr(self.model, "set_input_size"):
            self.model.set_input_size(img_size=(self.image_size, self.image_size))
        elif fixed:
            raise ValueError(f"{self.name} reads images of its own size only; leave out image_size.")


def _timm_model(name: str, pretrained: bool, weights: str | None, num_classes: int | None) -> Any:
    import timm  # here, since it takes seconds to import

    if ":" not in name and not timm.is_model(name):  # with a colon it is a place, such as "hf-hub:owner/model"
        raise ValueError(f"timm knows no model {name}; see timm.list_models().")
    arguments: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if weights is None:
        try:
            return timm.create_model(name, pretrained=pretrained, **arguments)
        except OSError as error:  # of the hub: nothing in its cache, and nobody to ask
            raise FileNotFoundError(
                f"the published weights of {name} are not in the cache and cannot be fetched here; give a safetensors "
                "file as weights, or pretrained=False."
            ) from error
        except RuntimeError as error:
            raise ValueError(f"{name} cannot be built: {str(error).rstrip('.')}.") from error
    if not Path(weights).is_file():
        raise FileNotFoundError(f"{weights} does not exist; give the safetensors file with the weights of {name}.")
    if not weights.endswith(".safetensors"):
        raise ValueError(f"{weights} is not a safetensors file; other formats can run code when read and are not.")
    # With the number of classes that it will find, timm checks every name and shape; with another it would silently
    # leave the classifier, and whatever else does not fit, at its random initialisation.
    overlay = {"file": weights, **arguments}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:  # whatever the reader of a damaged file may raise
        reason = str(error).strip().split("\n")[0].rstrip(":.")
        raise ValueError(f"{weights} does not hold the weights of {name} ({reason[:160]}).") from error

"""The rows without a frozen encoder: convolutional networks that PPO trains on the frames themselves.

`RawImage` hands frames on as they are, and a pooling reads them as images. So an end-to-end agent is trained, resumed,
saved and evaluated like any other; only that its encoder has no weights and its pooling is the network. Give it
`standardise: false`. A rollout keeps float32 frames: 49 kB per step of 64 x 64 pixels, 0.1 GB for 2048 steps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from ocl.representations.base import ObjectEncoder, images_at
from ocl.shapes import Batch, Slots
from rl_probes.observation import unpack
from rl_probes.pooling import Pooling

Size = tuple[int, int]


class RawImage(ObjectEncoder):
    """One slot that is the whole image, its values in [0, 1]: K = 1, D = 3 H W. For the networks of this module.

    image_size: images of another size are resized (bilinear, antialiased).
    """

    num_slots = 1

    def __init__(self, image_size: Size = (64, 64)) -> None:
        super().__init__()
        if min(image_size) < 1:
            raise ValueError(f"image_size must be at least (1, 1), got {tuple(image_size)}.")
        self.image_size = (image_size[0], image_size[1])
        self.dim = 3 * image_size[0] * image_size[1]

    def encode(self, batch: Batch) -> Slots:
        return Slots.of(images_at(batch.images, self.image_size).flatten(1).unsqueeze(1))


class ImageNetwork(Pooling):
    """A network on the observations of `RawImage`.

    Raises:
        ValueError: observations that are not one image of this size.
    """

    def __init__(self, observation_space: spaces.Space[Any], features_dim: int, image_size: Size) -> None:
        super().__init__(observation_space, features_dim, image_size=list(image_size))
        self.image_size = (image_size[0], image_size[1])
        if (self.num_slots, self.dim) != (1, 3 * image_size[0] * image_size[1]):
            raise ValueError(
                f"{type(self).__name__} reads one RawImage of {self.image_size}, got {self.num_slots} slots of "
                f"{self.dim} features."
            )

    def images(self, observations: Tensor) -> Tensor:
        """(B 1 D+1) -> (B 3 H W)."""
        vectors, _ = unpack(observations)
        return vectors.reshape(len(vectors), 3, *self.image_size)


class NatureCNN(ImageNetwork):
    """Three strided convolutions (32 of 8x8 by 4, 64 of 4x4 by 2, 64 of 3x3) and a layer of 512 (Mnih et al. 2015).

    Raises:
        ValueError: images smaller than 36 pixels along a side, which leave nothing for the last convolution.
    """

    def __init__(self, observation_space: spaces.Space[Any], image_size: Size = (64, 64)) -> None:
        super().__init__(observation_space, 512, image_size)
        if min(image_size) < 36:
            raise ValueError(f"NatureCNN needs images of at least 36 pixels, got {tuple(image_size)}.")
        convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.layers = nn.Sequential(*convolutions, nn.Linear(_width(convolutions, self.image_size), 512), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(self.images(observations))
        return features


class ImpalaCNN(ImageNetwork):
    """Three blocks of a convolution, max-pooling by 2 and two residual units, with 16, 32 and 32 channels, and a layer
    of 256 (Espeholt et al. 2018, the larger network): what published Procgen results are trained with."""

    def __init__(self, observation_space: spaces.Space[Any], image_size: Size = (64, 64)) -> None:
        super().__init__(observation_space, 256, image_size)
        blocks: list[nn.Module] = []
        for channels_in, channels in ((3, 16), (16, 32), (32, 32)):
            blocks += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            blocks += [_Residual(channels), _Residual(channels)]
        convolutions = nn.Sequential(*blocks, nn.ReLU(), nn.Flatten())
        self.layers = nn.Sequential(*convolutions, nn.Linear(_width(convolutions, self.image_size), 256), nn.ReLU())

    def forward(self, observations: Tensor) -> Tensor:
        features: Tensor = self.layers(self.images(observations))
        return features


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return features + torch.as_tensor(self.second(F.relu(self.first(F.relu(features)))))


@torch.no_grad()
def _width(layers: nn.Sequential, image_size: Size) -> int:
    """Of what comes out of them for one image."""
    return int(layers(torch.zeros(1, 3, *image_size)).shape[1])

"""Planted binding: tokens that hold a class, which several objects may share, and a vector of their own object."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ocl.binding.patches import Patches

FEATURES, BINDING, PATCHES, CLASSES = 56, 8, 40, 12


@dataclass
class Toy:
    """300 training and 100 test images of 40 patches: 56 dimensions hold the class, 8 the object, noise of 0.6 in all.

    3 to 6 objects per image, of which the first two share a class; the others' classes are drawn. `rotation` (D D)
    mixes the dimensions, so that no probe can know by position which of them bind.
    """

    training: Patches
    test: Patches
    rotation: Tensor

    @property
    def rotated(self) -> tuple[Patches, Patches]:
        def rotate(patches: Patches) -> Patches:
            return Patches(patches.tokens @ self.rotation, patches.objects, patches.classes)

        return rotate(self.training), rotate(self.test)


def planted(images: int, prototypes: Tensor, generator: torch.Generator) -> Patches:
    count = torch.randint(3, 7, (images, 1), generator=generator)
    share = torch._standard_gamma(torch.full((images, 6), 5.0), generator=generator)
    share = share.masked_fill(torch.arange(6) >= count, 0)
    objects = share.multinomial(PATCHES, replacement=True, generator=generator)
    classes = torch.randint(CLASSES, (images, 6), generator=generator)
    classes[:, 1] = classes[:, 0]
    classes = classes.gather(1, objects)
    # orthogonal within an image: objects differ by equally much
    own = torch.linalg.qr(torch.randn(images, BINDING, 6, generator=generator)).Q.mT * BINDING**0.5
    bound = own.gather(1, objects[..., None].expand(-1, -1, BINDING))
    tokens = torch.cat([prototypes[classes], bound], -1)
    tokens = tokens + 0.6 * torch.randn(tokens.shape, generator=generator)
    return Patches(tokens[None], objects, classes)


@pytest.fixture(scope="session")
def toy() -> Toy:
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(CLASSES, FEATURES, generator=generator)
    rotation = torch.linalg.qr(torch.randn(64, 64, generator=generator)).Q
    return Toy(planted(300, prototypes, generator), planted(100, prototypes, generator), rotation)

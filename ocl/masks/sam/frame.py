"""Between an image and the square that SAM sees: resized to its long side, padded at the right and the bottom."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import resize, to_pil_image


class Frame:
    """The geometry of one image size.

    Args:
        size: (H, W) of the image.
        model: segment-anything's `Sam`.

    Raises:
        ValueError: an image so thin that it vanishes at SAM's size.
    """

    def __init__(self, size: tuple[int, int], model: Any) -> None:
        self.size, self.model = size, model
        self.side: int = model.image_encoder.img_size
        scale = self.side / max(size)
        self.resized = (int(size[0] * scale + 0.5), int(size[1] * scale + 0.5))
        if min(self.resized) < 1:
            raise ValueError(
                f"an image of {size[0]} x {size[1]} pixels is too thin for SAM: at {self.side} pixels no row is left."
            )

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """(H W 3) RGB -> (1 3 S S), resized as the package does (Pillow, bilinear with antialiasing) and normalised."""
        pixels = np.array(resize(to_pil_image(image), list(self.resized)))
        tensor = torch.as_tensor(pixels, device=self.model.device).permute(2, 0, 1)
        prepared: Tensor = self.model.preprocess(tensor)
        return prepared[None]

    def to_input(self, places: Tensor) -> Tensor:
        """(... 2) or (... 4) x, y, ... in pixels of the image -> in pixels of the square."""
        height, width = self.size
        factors = places.new_tensor([self.resized[1] / width, self.resized[0] / height])
        return places * factors.repeat(places.shape[-1] // 2)

    def enlarge(self, logits: Tensor) -> Tensor:
        """(n h w) of the square -> (n H W) of the image.

        The package interpolates to S x S, cuts out the image and interpolates again. Both steps are linear in rows and
        in columns, so they are one matrix for each, and nothing of size S x S is made.
        """
        rows, columns = self._matrices
        rows, columns = rows.to(logits), columns.to(logits)
        return rows @ (logits[:, : rows.shape[1], : columns.shape[1]] @ columns.T)

    @cached_property
    def _matrices(self) -> tuple[Tensor, Tensor]:
        """(H a) and (W b): what every pixel takes from the a rows and b columns that reach the image."""
        low = 4 * self.model.prompt_encoder.image_embedding_size[0]
        identity = torch.eye(low, dtype=torch.float64)[:, None]
        large = F.interpolate(identity, self.side, mode="linear")
        both = []
        for inside, full in zip(self.resized, self.size, strict=True):
            matrix = F.interpolate(large[..., :inside], full, mode="linear")[:, 0].T  # full, low
            reached = int(matrix.any(dim=0).nonzero().max()) + 1
            both.append(matrix[:, :reached].to(self.model.device))
        return both[0], both[1]

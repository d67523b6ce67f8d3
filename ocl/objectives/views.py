"""Random views of images: crops at several sizes, mirrored and recoloured, a whole batch at once."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)


class MultiCrop(nn.Module):
    """Two large crops and several small ones of every image (Caron et al. 2020, arXiv 2006.09882).

    Crops take a random share of the image's area at a random shape (3 : 4 to 4 : 3), half of them mirrored. Colours:
    brightness, contrast and saturation by up to `jitter` with probability 0.8, grey with probability 0.2. Unlike the
    published views there is no change of hue, no blur and no solarisation, and crops are sampled bilinearly without
    antialiasing.

    Args:
        large, small: pixels along each side of the crops.
        large_share, small_share: least and most share of the image's area. Published: 0.4 to 1 and 0.05 to 0.4.
        count: small crops of an image; 0 is allowed. Published: 8.
        jitter: strength of the changes of colour. Published: 0.4 (saturation: 0.2).

    Raises:
        ValueError: a size, share or count out of range.
    """

    def __init__(
        self,
        large: int = 64,
        small: int = 32,
        count: int = 4,
        large_share: tuple[float, float] = (0.4, 1.0),
        small_share: tuple[float, float] = (0.05, 0.4),
        jitter: float = 0.4,
    ) -> None:
        super().__init__()
        if large < 1 or small < 1 or count < 0 or not 0 <= jitter < 1:
            raise ValueError(
                f"MultiCrop needs sizes of at least 1, a count of at least 0 and a jitter in [0, 1), got {large}, "
                f"{small}, {count} and {jitter}."
            )
        for least, most in (large_share, small_share):
            if not 0 < least <= most <= 1:
                raise ValueError(f"shares must be 0 < least <= most <= 1, got {least} and {most}.")
        self.large, self.small, self.count, self.jitter = large, small, count, jitter
        self.large_share, self.small_share = large_share, small_share

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B 3 H W) in [0, 1] -> large (2 B, 3, S, S) and small (count B, 3, s, s), view by view."""
        large = self._views(images, 2, self.large, self.large_share)
        small = self._views(images, self.count, self.small, self.small_share)
        return large, small

    def _views(self, images: Tensor, count: int, size: int, share: tuple[float, float]) -> Tensor:
        if not count:
            return images.new_empty(0, 3, size, size)
        return self._recoloured(random_crops(images.repeat(count, 1, 1, 1), size, share))

    def _recoloured(self, images: Tensor) -> Tensor:
        count, device = len(images), images.device
        weights = torch.tensor(LUMA, device=device).view(3, 1, 1)
        factor = 1 + self.jitter * (2 * torch.rand(3, count, 1, 1, 1, device=device) - 1)
        factor = torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.8, factor, 1)
        images = (images * factor[0]).clamp(0, 1)
        middle = (images * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        images = torch.lerp(middle, images, factor[1]).clamp(0, 1)
        grey = (images * weights).sum(1, keepdim=True)
        images = torch.lerp(grey, images, factor[2]).clamp(0, 1)
        return torch.where(torch.rand(count, 1, 1, 1, device=device) < 0.2, grey, images)


def random_crops(images: Tensor, size: int, share: tuple[float, float]) -> Tensor:
    """(B 3 H W) -> (B 3 size size): a random rectangle of each image, half of them mirrored.

    share: least and most share of the image's area; the shape is log-uniform between 3 : 4 and 4 : 3, cut off where the
    rectangle would leave the image.
    """
    count, device = len(images), images.device
    area = torch.empty(count, device=device).uniform_(*share)
    ratio = torch.empty(count, device=device).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
    sides = torch.stack([(area * ratio).sqrt(), (area / ratio).sqrt()], dim=1).clamp(max=1)  # (B 2) of width and height
    centre = (1 - sides) * (2 * torch.rand(count, 2, device=device) - 1)  # the image spans [-1, 1]
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3, device=device)
    affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = sides[:, 0] * mirror, sides[:, 1], centre
    places = F.affine_grid(affine, [count, 3, size, size], align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)

"""What an image encoder is shown of a segment: masks applied to images, all masks of a batch in one call.

The rest of the photograph is painted over, so that it cannot speak for the segment. Every application gives squares of
`size` without a change of aspect, is differentiable with respect to the image and to soft masks (not to the place of
the square), and has no loop over masks. OCCAM: Rubinstein et al., "Are We Done with Object-Centric Learning?", 2025.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.masks.framing import AroundImage, AroundMask, Frame
from ocl.masks.resampling import Squares, resample
from ocl.shapes import images_as_float


class MaskApplication(Protocol):
    """images (B 3 H W) in [0, 1] and masks (B K H W), bool or float in [0, 1] -> (B K c size size) float32 in [0, 1].

    c is 3, or 4 where the mask itself is the last channel. K may be 0. An empty mask (padding has one) is no error: it
    is shown as fill everywhere, by `Blur` as the blurred image, by `Unmasked` and `Alpha` as the image.
    """

    size: int

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor: ...


class Grey:
    """out = m x + (1 - m) fill at the output's size: what is not the segment is flat.

    Image and mask are resized bilinearly with antialiasing, then mixed. Beyond the image there is `fill`.

    Args:
        size: S, side of the output.
        frame: which square of the image is shown.
        fill: grey level in [0, 1].
    """

    def __init__(self, size: int, frame: Frame | None = None, fill: float = 0.5) -> None:
        if size < 1 or not 0 <= fill <= 1:
            raise ValueError(f"size must be at least 1 and fill lie in [0, 1], got size {size} and fill {fill}.")
        self.size = size
        self.frame = AroundImage() if frame is None else frame
        self.fill = fill

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        images, masks = _checked(images, masks)
        squares = self.frame(masks)
        size = (self.size, self.size)
        return self.fill + _alpha(masks, squares, size) * resample(images - self.fill, squares, size)


class GreyCrop(Grey):
    """The paper's "Gray BG + Crop" without its stretching: `Grey` in the smallest square around the mask's box.

    Differs from the published code in two ways that `OccamV1` keeps: the whole square is shown at any aspect ratio of
    the photograph, and the box is inside its square also where its longer side is even.

    Args:
        size: S, side of the output.
        pad_ratio: room left on either side of the box, as a share of its longer side. 0 is the paper's.
        fill: grey level in [0, 1].
    """

    def __init__(self, size: int, pad_ratio: float = 0.0, fill: float = 0.5) -> None:
        super().__init__(size, AroundMask(pad_ratio), fill)


class Black(Grey):
    """`Grey` with fill 0."""

    def __init__(self, size: int, frame: Frame | None = None) -> None:
        super().__init__(size, frame, fill=0.0)


class Unmasked(Grey):
    """The image itself for every mask: the baseline without segments. Beyond the image there is `fill`.

    Encoders' own transforms show the `CentreSquare`. Where the frame does not depend on the masks, the K outputs of an
    image share their memory.
    """

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        images, masks = _checked(images, masks)
        shown = self.fill + resample(images - self.fill, self.frame(masks), (self.size, self.size))
        return shown.expand(-1, masks.shape[1], -1, -1, -1)


class Alpha(Unmasked):
    """The image with the mask as its fourth channel, for encoders that take one (Alpha-CLIP). Nothing is painted over.

    The mask is in [0, 1]; the mean and spread of Alpha-CLIP, 0.5 and 0.26, are the encoder's business.
    """

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        pictures = super().__call__(images, masks)
        images, masks = _checked(images, masks)
        return torch.cat([pictures, _alpha(masks, self.frame(masks), (self.size, self.size))], dim=2)


class Blur(Grey):
    """out = m x + (1 - m) blurred: what is not the segment is out of focus; an empty mask shows all of it blurred.

    The image is blurred at its own size by a Gaussian of `kernel` pixels with OpenCV's sigma for that width,
    0.3 ((kernel - 1) / 2 - 1) + 0.8. The public code has 15.
    """

    def __init__(self, size: int, frame: Frame | None = None, kernel: int = 15, fill: float = 0.5) -> None:
        super().__init__(size, frame, fill)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"the kernel of a blur must be odd and positive, got {kernel}.")
        self.kernel = kernel

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        images, masks = _checked(images, masks)
        both = torch.cat([images, self._blurred(images)], dim=1)
        squares, size = self.frame(masks), (self.size, self.size)
        sharp, blurred = (resample(both - self.fill, squares, size) + self.fill).chunk(2, dim=2)
        return torch.lerp(blurred, sharp, _alpha(masks, squares, size))

    def _blurred(self, images: Tensor) -> Tensor:
        """Rows, then columns; mirrored at the borders, the outermost pixel once."""
        half = self.kernel // 2
        if min(images.shape[-2:]) <= half:
            raise ValueError(
                f"a blur of {self.kernel} pixels needs images of {half + 1} at least, got {tuple(images.shape)}."
            )
        sigma = 0.3 * (half - 1) + 0.8
        bell = torch.exp(-0.5 * (torch.arange(-half, half + 1, device=images.device) / sigma) ** 2)
        bell = (bell / bell.sum()).expand(3, 1, 1, -1)
        padded = F.pad(images, [half] * 4, mode="reflect")
        return F.conv2d(F.conv2d(padded, bell, groups=3), bell.transpose(2, 3), groups=3)


class OccamV1:
    """The published code's "Gray BG + Crop", for parity with its numbers; `GreyCrop` is the one to use.

    The square around the mask is stretched to the photograph's own H x W, mixed with grey 0.5 there, resized so that
    the shorter side is S and cut to its central S x S: of a 4:3 photograph 75 % of the square is shown, of a 3:2 one
    67 %. The image is continued in black, so a segment at its border has a dark edge. Where the box's longer side is
    even, its last row or column is outside the square. Both resizings are bilinear with antialiasing, torchvision's
    default since 0.17; the published code names no version.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}.")
        self.size = size

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        images, masks = _checked(images, masks)
        height, width = images.shape[-2:]
        squares = AroundMask(published=True)(masks)
        stretched = resample(images, squares, (height, width))
        pictures = 0.5 + _alpha(masks, squares, (height, width)) * (stretched - 0.5)
        shorter = min(height, width)
        resized = (self.size * height // shorter, self.size * width // shorter)
        shrunk = F.interpolate(pictures.flatten(0, 1), resized, mode="bilinear", antialias=True, align_corners=False)
        top, left = (round((length - self.size) / 2) for length in resized)
        shown = shrunk[..., top : top + self.size, left : left + self.size]
        return shown.reshape(*masks.shape[:2], 3, self.size, self.size)


def _checked(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The images as float32, the masks as they are if bool, else as float32."""
    images = images_as_float(images)
    fits = masks.ndim == 4 and masks.shape[0] == images.shape[0] and masks.shape[-2:] == images.shape[-2:]
    if not fits or not (masks.dtype == torch.bool or masks.is_floating_point()):
        expected = f"({images.shape[0]}, K, {images.shape[2]}, {images.shape[3]})"
        raise ValueError(
            f"masks must be {expected}, bool or floating, like the images, got {tuple(masks.shape)} {masks.dtype}."
        )
    return images, masks if masks.dtype == torch.bool else masks.float()


def _alpha(masks: Tensor, squares: Squares, size: tuple[int, int]) -> Tensor:
    """(B K H W) -> (B K 1 h w)."""
    return resample(masks.flatten(0, 1)[:, None], squares.flat(masks.shape[1]), size).view(*masks.shape[:2], 1, *size)

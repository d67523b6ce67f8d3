"""The convolutional encoder reads images as they should be, and names others."""

from __future__ import annotations

import pytest
import torch

from ocl.encoders.cnn import CNNEncoder
from ocl.shapes import images_as_float


def test_bytes_and_other_sizes_are_named() -> None:
    encoder = CNNEncoder((16, 24), 8, channels=4, strides=[2, 2])
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    assert encoder(images_as_float(images)).tokens.shape == (2, 24, 8)
    with pytest.raises(TypeError, match=r"images must be floating in \[0, 1\], got torch.uint8"):
        encoder(images)
    with pytest.raises(ValueError, match=r"images must be \(B, 3, 16, 24\), got \(2, 3, 24, 16\)"):
        encoder(torch.rand(2, 3, 24, 16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_cast_encoder_reads_float32_images(dtype: torch.dtype) -> None:
    encoder = CNNEncoder((16, 24), 8, channels=4, strides=[2, 2])
    images = torch.rand(2, 3, 16, 24)
    expected = encoder(images).tokens
    found = encoder.to(dtype)(images).tokens
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)

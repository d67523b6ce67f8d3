"""Run-length codes against pycocotools, byte by byte, and against the masks themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from segment_anything.utils.amg import mask_to_rle_pytorch
from torch import Tensor

from ocl.masks import rle


def blobs(count: int, height: int, width: int, coarse: int = 16) -> Tensor:
    field = torch.randn(count, 1, -(-height // coarse), -(-width // coarse))
    return torch.nn.functional.interpolate(field, (height, width), mode="bilinear")[:, 0] > 0.3


def single(height: int, width: int, y: int, x: int) -> Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, y, x] = True
    return mask


CASES = {
    "random": torch.rand(7, 13, 17, generator=torch.Generator().manual_seed(0)) > 0.5,
    "one column": torch.rand(5, 9, 1, generator=torch.Generator().manual_seed(1)) > 0.5,
    "one row": torch.rand(5, 1, 9, generator=torch.Generator().manual_seed(2)) > 0.5,
    "empty and full": torch.stack([torch.zeros(6, 5), torch.ones(6, 5)] * 2).bool(),
    "the first pixel": single(6, 5, 0, 0),
    "the last pixel": single(6, 5, 5, 4),
    "one pixel": single(480, 640, 200, 300),
    "blobs": blobs(20, 480, 640),
    "large": blobs(2, 2100, 3000, 100),
    "over the end of a column": torch.tensor([[[0, 1], [0, 0], [1, 0]]]).bool(),
    "one pixel in all": torch.tensor([[[True]], [[False]]]),
}


@pytest.mark.parametrize("masks", CASES.values(), ids=CASES.keys())
def test_pycocotools_says_the_same(masks: Tensor) -> None:
    codes = rle.encode(masks)
    texts = rle.compress(codes)
    theirs = coco.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert [text["counts"].encode() for text in texts] == [their["counts"] for their in theirs]
    assert [text["size"] for text in texts] == [their["size"] for their in theirs]
    assert torch.equal(rle.areas(codes), torch.from_numpy(coco.area(theirs).astype(np.int64)))
    assert torch.equal(rle.boxes(texts), torch.from_numpy(coco.toBbox(theirs).astype(np.int64)))
    for form in (codes, texts, theirs):
        assert torch.equal(rle.decode(form), masks)
    assert [rle.decompress(text) for text in texts] == codes
    assert rle.compress(texts) == texts


@pytest.mark.parametrize("masks", CASES.values(), ids=CASES.keys())
def test_segment_anything_says_the_same(masks: Tensor) -> None:
    assert rle.encode(masks) == mask_to_rle_pytorch(masks)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.integers(0, 2**20))
def test_there_and_back(count: int, height: int, width: int, share: float, seed: int) -> None:
    masks = torch.rand(count, height, width, generator=torch.Generator().manual_seed(seed)) < share
    codes = rle.encode(masks)
    back = rle.decode(rle.compress(codes))
    assert torch.equal(back, masks) if count else back.numel() == 0
    assert torch.equal(rle.areas(codes), masks.sum((1, 2)))
    for box, mask in zip(rle.boxes(codes).tolist(), masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        found = (
            [int(x.min()), int(y.min()), int(x.max() - x.min()) + 1, int(y.max() - y.min()) + 1] if len(x) else [0] * 4
        )
        assert box == found


def test_the_order_of_memory_does_not_matter() -> None:
    masks = torch.rand(30, 20, 6) > 0.5
    assert rle.encode(masks.permute(2, 1, 0)) == rle.encode(masks.permute(2, 1, 0).contiguous())
    shifted = (torch.rand(1 + 3 * 16 * 8) > 0.5)[1:].view(3, 16, 8)  # begins between two words
    assert rle.encode(shifted) == rle.encode(shifted.clone())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_says_the_same() -> None:
    for masks in CASES.values():
        assert rle.encode(masks.cuda()) == rle.encode(masks)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \(n, H, W\) bool"):
        rle.encode(torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match="with pixels"):
        rle.encode(torch.zeros(2, 0, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="must fill 3 x 3 pixels, they fill 8"):
        rle.decode([{"size": [3, 3], "counts": [4, 4]}])
    with pytest.raises(ValueError, match="must fill"):
        rle.decode([{"size": [3, 3], "counts": [4, -1, 6]}])
    with pytest.raises(ValueError, match="must fill"):
        rle.areas([{"size": [3, 3], "counts": [2**62, 2**62, 2**62, 2**62, 9]}])  # 9 in 64 bits
    with pytest.raises(ValueError, match="one size"):
        rle.decode([{"size": [3, 3], "counts": [9]}, {"size": [1, 9], "counts": [9]}])
    whole = rle.compress(rle.encode(blobs(1, 400, 300)))[0]
    for text in ("", "\x00", whole["counts"][:-1], "o" * 20 + "0"):
        with pytest.raises(ValueError, match=r"is not the compressed text|must fill"):
            rle.decode([{**whole, "counts": text}])


@pytest.mark.parametrize("masks", CASES.values(), ids=CASES.keys())
def test_masks_are_compressed_as_their_codes_are(masks: Tensor) -> None:
    expected = [code["counts"].decode() for code in coco.encode(np.asfortranarray(masks.permute(1, 2, 0).byte()))]
    for form in (masks, rle.encode(masks)):
        assert rle.compress(form) == [{"size": list(masks.shape[1:]), "counts": text} for text in expected]


def test_no_masks_have_no_codes() -> None:
    for form in (torch.zeros(0, 4, 5, dtype=torch.bool), []):
        assert rle.compress(form) == []
    assert rle.encode(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
    with pytest.raises(ValueError, match="bool with pixels"):
        rle.compress(torch.zeros(1, 4, 5))

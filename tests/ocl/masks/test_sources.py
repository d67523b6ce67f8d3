"""Mask sources against closed forms and against the library they call."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage import segmentation

from ocl.describe import describe_part
from ocl.masks.base import Masks, MaskSource, required_by
from ocl.masks.filters import Filters, LargestArea
from ocl.masks.label_maps import paint, to_masks
from ocl.masks.selection import WholeImageToo
from ocl.masks.sources import Felzenszwalb, Filtered, Grid, Slic, SlotMasks, TrueMasks, WholeImage
from ocl.shapes import IGNORE, Batch, Slots


def photographs(count: int = 2, height: int = 48, width: int = 64) -> Batch:
    coarse = torch.rand(count, 3, height // 12, width // 12)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return Batch((smooth * 255).to(torch.uint8))


SOURCES: list[MaskSource] = [WholeImage(), Grid(3, 5), Slic(20), Felzenszwalb(50)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: type(source).__name__)
def test_blind_masks_and_superpixels_cut_the_image_into_parts(source: MaskSource) -> None:
    masks = source(photographs())
    assert masks.masks.shape[0] == 2
    assert masks.masks.shape[2:] == (48, 64)
    assert masks.masks.sum(1).eq(1).all()
    assert torch.equal(masks.valid, masks.masks.flatten(2).any(2))


def test_grids_have_equal_cells() -> None:
    masks = Grid(3, 4)(photographs(1))
    assert masks.masks.sum((2, 3)).tolist() == [[48 * 64 // 12] * 12]
    assert masks.masks[0, 5, 16:32, 16:32].all()
    assert Grid(1, 1)(photographs(1)).masks.all()
    with pytest.raises(ValueError, match="as many pixels"):
        Grid(49, 1)(photographs(1))


def test_superpixels_are_those_of_the_library() -> None:
    batch = photographs()
    for index, image in enumerate(batch.images.permute(0, 2, 3, 1).numpy()):
        theirs = segmentation.slic(image, n_segments=12, compactness=5, start_label=1)
        assert np.array_equal(paint(Slic(12, 5)(batch))[index].numpy(), theirs)
        theirs = segmentation.felzenszwalb(image, scale=80, sigma=0.5, min_size=9)
        assert np.array_equal(paint(Felzenszwalb(80, 0.5, 9)(batch))[index].numpy(), theirs + 1)


def test_slots_win_pixels_after_upsampling() -> None:
    coarse = torch.rand(2, 4, 6, 8).softmax(1)
    slots = Slots(torch.zeros(2, 4, 3), coarse, torch.tensor([[True] * 4, [True, False, True, True]]))
    batch = photographs()
    soft = SlotMasks(lambda _: slots, soft=True)(batch)
    upsampled = torch.nn.functional.interpolate(coarse, (48, 64), mode="bilinear")
    assert torch.allclose(soft.masks[0], upsampled[0])
    assert torch.equal(soft.valid, slots.valid)
    hard = SlotMasks(lambda _: slots)(batch)
    assert torch.equal(hard.masks[0].byte().argmax(0), upsampled[0].argmax(0))
    assert hard.masks.sum(1).eq(1).all()
    assert not hard.masks[1, 1].any()
    with pytest.raises(ValueError, match="gives no masks"):
        SlotMasks(lambda _: Slots.of(torch.zeros(2, 4, 3)))(batch)


def test_a_slot_that_wins_no_pixel_is_no_mask() -> None:
    masks = torch.tensor([0.1, 0.7, 0.2]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    found = SlotMasks(lambda _: Slots.of(torch.zeros(1, 3, 2), masks))(photographs(1))
    assert found.valid.tolist() == [[False, True, False]]


def test_true_masks() -> None:
    labels = torch.tensor([[[0, 0, 3], [1, IGNORE, 3]]])
    batch = Batch(torch.zeros(1, 3, 2, 3), labels)
    assert TrueMasks()(batch).masks.sum((2, 3)).tolist() == [[1, 2]]
    assert TrueMasks(background=True)(batch).masks.sum((2, 3)).tolist() == [[2, 1, 2]]
    with pytest.raises(ValueError, match="needs images with a segmentation"):
        TrueMasks()(photographs())


def test_filtered_masks_move_together() -> None:
    labels = torch.zeros(2, 10, 10, dtype=torch.int64)
    labels[0, 0, :2], labels[0, 1, :4], labels[0, 2, :6] = 1, 2, 3
    labels[1, 5, 5] = 2
    batch = Batch(torch.zeros(2, 3, 10, 10), labels)
    found = Filtered(TrueMasks(), Filters([LargestArea(2)]))(batch)
    assert found.masks.sum((2, 3)).tolist() == [[4, 6], [1, 0]]
    assert found.valid.tolist() == [[True, True], [True, False]]
    whole = Filtered(TrueMasks())(Batch(torch.zeros(2, 3, 100, 100), torch.zeros(2, 100, 100, dtype=torch.int64)))
    assert whole.masks.shape == (2, 1, 100, 100)
    assert whole.masks.all()


def test_compacting_keeps_masks_scores_and_their_order() -> None:
    masks = Masks.of(torch.rand(3, 6, 4, 4) > 0.5, torch.rand(3, 6))
    masks.valid[0, ::2] = False
    masks.valid[2] = False
    found = masks.compact()
    assert found.valid.tolist() == [[True] * 3 + [False] * 3, [True] * 6, [False] * 6]
    assert torch.equal(found.masks[0, :3], masks.masks[0, 1::2])
    assert torch.equal(found.scores[1], masks.scores[1])
    assert to_masks(torch.zeros(1, 2, 2, dtype=torch.int64)).compact().masks.shape == (1, 0, 2, 2)


def test_sources_can_be_told_apart() -> None:
    sources = [*SOURCES, Grid(5, 3), Slic(21), TrueMasks(), TrueMasks(True), Filtered(Slic(20)), Filtered(Slic(21))]
    sources.append(Filtered(Slic(20), Filters([])))
    told = [str(describe_part(source)) for source in sources]
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("wrap", [Filtered, WholeImageToo])
def test_a_wrapped_source_requires_what_its_source_requires(wrap: Callable[[MaskSource], MaskSource]) -> None:
    assert required_by(wrap(TrueMasks())) == {"images", "segmentation"}
    assert required_by(wrap(Grid(1, 1))) == {"images"}


@pytest.mark.parametrize("source", [Slic(4), Felzenszwalb()])
def test_superpixels_of_nothing_and_of_what_is_not_finite(source: MaskSource) -> None:
    assert source(Batch(torch.zeros(0, 3, 6, 8))).masks.shape == (0, 0, 6, 8)
    assert source(Batch(torch.rand(2, 3, 1, 1))).masks.all()
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            source(Batch(torch.full((1, 3, 6, 8), value)))


def test_senseless_superpixels_are_refused() -> None:
    for settings in ({"n_segments": 0}, {"compactness": 0.0}, {"sigma": -1.0}):
        with pytest.raises(ValueError, match="Slic"):
            Slic(**settings)  # type: ignore[arg-type]
    for settings in ({"scale": -1.0}, {"sigma": -1.0}, {"min_size": -1}):
        with pytest.raises(ValueError, match="Felzenszwalb"):
            Felzenszwalb(**settings)  # type: ignore[arg-type]

"""Perturbed masks meet their target to the pixel, and only change what their name says."""

import pytest
import torch

from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.masks import sources
from ocl.masks.base import Masks, required_by
from ocl.masks.perturb import Dilate, Erode, Merge, PerturbedMasks, Split
from ocl.shapes import Batch

KINDS = [Erode, Dilate, Split, Merge]


class TrueMasks:
    """All objects, with a column that is not valid."""

    def __call__(self, batch):
        return Masks.of(batch.segmentation[:, None] == torch.arange(1, 5)[:, None, None], torch.rand(len(batch), 4))


def scenes(count=64, size=64):
    dataset = SpriteScenes(count, image_size=size, num_objects=(3, 3), separation=0.35, scales=(0.2, 0.3))
    return collate(dataset.__getitems__(range(count)))


def true_masks(**arguments):
    return TrueMasks()(scenes(**arguments)).masks


def area(masks):
    return masks.flatten(2).sum(-1)


def iou(first, second):
    first, second = first.double(), second.double()
    return area(torch.minimum(first, second)) / area(torch.maximum(first, second))


@pytest.mark.parametrize("target", [0.9, 0.7, 0.5, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_met_to_the_pixel(kind, target):
    masks = true_masks()
    worse = kind(target)(masks)[:, :4]
    real = area(masks) > 0
    assert real[:, :3].all()
    assert not real[:, 3].any()
    assert not worse[~real].any()
    found = iou(masks, worse)[real]
    # Hard masks: half a pixel of the part that is counted, against the area that it is divided by.
    slack = 0.5 / area(masks)[real] if worse.dtype == torch.bool else 0
    assert ((found - target).abs() <= slack + 1e-6).all()


def test_what_shrinks_lies_inside_and_what_grows_holds_the_mask():
    masks = true_masks()
    for kind in (Erode, Split):
        assert not (kind(0.5)(masks)[:, :4].bool() & ~masks).any()
    for kind in (Dilate, Merge):
        assert (kind(0.5)(masks)[masks] == 1).all()


def test_a_split_loses_and_doubles_nothing():
    masks = true_masks()
    parts = Split(0.7)(masks)
    assert parts.shape == (64, 8, 64, 64)
    first, second = parts.chunk(2, dim=1)
    assert torch.equal(first | second, masks)
    assert not (first & second).any()
    # A straight cut: a line separates the parts, so their convex hulls are apart. Checked on the line itself.
    direction = Split(0.7).direction(masks)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    along = direction[..., 0, None, None] * x + direction[..., 1, None, None] * y
    least = along.masked_fill(~first, torch.inf).flatten(2).amin(-1)
    most = along.masked_fill(~second, -torch.inf).flatten(2).amax(-1)
    assert (least >= most)[:, :3].all()


def test_erosion_and_dilation_of_a_square_are_squares():
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks[..., 8:20, 8:20] = True
    inner, outer = torch.zeros_like(masks), torch.zeros_like(masks)
    inner[..., 10:18, 10:18] = True
    outer[..., 6:22, 6:22] = True
    torch.testing.assert_close(Erode(64 / 144)(masks), inner.float())
    torch.testing.assert_close(Dilate(144 / 256)(masks), outer.float())


def test_a_layer_that_is_only_partly_kept_has_one_weight_all_around():
    masks = torch.zeros(1, 1, 48, 48, dtype=torch.bool)
    masks[..., 8:32, 8:32] = True
    kept = Erode(0.92)(masks)
    ring = masks.clone()
    ring[..., 9:31, 9:31] = False
    assert torch.equal(kept[masks & ~ring], torch.ones(22**2))
    torch.testing.assert_close(kept[ring], torch.full((92,), 1 - 0.08 * 576 / 92))
    grown = Dilate(0.92)(masks)
    around = torch.zeros_like(masks)
    around[..., 7:33, 7:33] = True
    assert not grown[~around].any()
    torch.testing.assert_close(grown[around & ~masks], torch.full((100,), (576 / 0.92 - 576) / 100))


def test_erosion_starts_at_the_edge_and_the_frame_is_no_edge():
    masks = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    masks[..., :, :8] = True  # the left half: only its right side is an edge
    kept = Erode(0.5)(masks)
    expected = torch.zeros_like(masks)
    expected[..., :, :4] = True
    assert torch.equal(kept, expected.float())


def test_merging_grows_to_one_side_and_dilation_to_all():
    masks = true_masks(size=96)
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")

    def middle(parts):
        return (
            torch.stack([(parts * y).flatten(2).sum(-1), (parts * x).flatten(2).sum(-1)], -1) / area(parts)[..., None]
        )

    inside = ((y - 48).abs() < 20) & ((x - 48).abs() < 20)  # far from the frame, which bounds what grows
    central = inside[middle(masks)[:, :3].long().unbind(-1)]
    assert central.sum() > 20
    shift = {kind: (middle(kind(0.6)(masks)) - middle(masks))[:, :3].norm(dim=-1)[central] for kind in (Dilate, Merge)}
    assert shift[Dilate].median() < 1
    assert shift[Merge].median() > 3
    toward = (middle(Merge(0.6)(masks)) - middle(masks)).flip(-1)  # (y, x) -> (x, y)
    assert ((toward * Merge(0.6).direction(masks)).sum(-1)[:, :3][central] > 0).all()


def test_directions_go_all_ways_and_belong_to_the_mask_alone():
    masks = true_masks(count=256)[:, :3]
    direction = Merge(0.5).direction(masks).flatten(0, 1)
    angle = torch.atan2(direction[:, 1], direction[:, 0])
    quarters = torch.histc(angle, 4, -torch.pi, torch.pi) / len(angle)
    assert ((quarters - 0.25).abs() < 4 * 0.433 / len(angle) ** 0.5).all()
    assert not torch.equal(Merge(0.5, seed=1).direction(masks).flatten(0, 1), direction)
    for kind in KINDS:
        together, alone = kind(0.5)(masks), kind(0.5)(masks[7:8])
        assert torch.equal(together[7:8], alone)


def test_iou_one_changes_nothing():
    masks = true_masks()
    for kind in KINDS:
        assert torch.equal(kind(1.0)(masks)[:, :4].float(), masks.float())


def test_nothing_grows_past_the_image():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[0, 0, :4] = True
    masks[0, 1] = True
    for kind in (Dilate, Merge):
        assert kind(0.1)(masks).all()
    single = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    single[..., 3, 3] = True
    assert torch.equal(Split(0.1)(single)[:, :1], single), "a mask keeps at least one pixel"
    torch.testing.assert_close(Erode(0.1)(single), 0.1 * single)


def test_as_a_source():
    batch = scenes()
    torch.manual_seed(0)
    found = PerturbedMasks(TrueMasks(), Split(0.7))(batch)
    torch.manual_seed(0)
    plain = TrueMasks()(batch)
    assert found.masks.shape == (64, 8, 64, 64)
    assert torch.equal(found.valid, plain.valid.repeat(1, 2))
    assert torch.equal(found.scores, plain.scores.repeat(1, 2))
    eroded = PerturbedMasks(TrueMasks(), Erode(0.7))(batch)
    assert torch.equal(eroded.masks, Erode(0.7)(plain.masks))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"Erode: iou must be in \(0, 1\], got 0"):
        Erode(0)
    with pytest.raises(ValueError, match="threshold soft masks"):
        Merge(0.5)(torch.rand(1, 2, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, K, H, W\)"):
        Merge(0.5)(torch.ones(2, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize("perturbation", [Erode(0.5), Dilate(0.5), Split(0.5), Merge(0.5)])
@pytest.mark.parametrize("shape", [(2, 0, 5, 7), (0, 3, 5, 7)])
def test_no_mask_and_no_image(perturbation, shape):
    parts = 2 if isinstance(perturbation, Split) else 1
    expected = (shape[0], parts * shape[1], 5, 7)
    assert perturbation(torch.zeros(shape, dtype=torch.bool)).shape == expected
    source = PerturbedMasks(lambda batch: Masks.of(torch.zeros(shape, dtype=torch.bool)), perturbation)
    assert source(Batch(torch.zeros(shape[0], 3, 5, 7))).masks.shape == expected


def test_a_perturbed_source_requires_what_its_source_requires():
    assert required_by(PerturbedMasks(sources.TrueMasks(), Erode(0.5))) == {"images", "segmentation"}
    assert required_by(PerturbedMasks(sources.WholeImage(), Erode(0.5))) == {"images"}

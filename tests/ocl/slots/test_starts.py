"""First slots beyond a Gaussian: learned with fading noise, warmed by the image, told by points and boxes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ocl.data.boxes import WithBoxes
from ocl.data.sprite_scenes import SpriteScenes
from ocl.shapes import Features, Hints
from ocl.slots.attention import SlotAttention
from ocl.slots.hinted import BoxSlots, PointSlots
from ocl.slots.initial import InitialSlots, LearnedSlots, NoisyLearnedSlots, RandomSlots
from ocl.slots.preheated import DisturbedStart, PreheatedSlots


def features(batch: int = 2, width: int = 16) -> Features:
    return Features(torch.randn(batch, 20, width), (4, 5))


def steps(starts: NoisyLearnedSlots | PreheatedSlots, count: int) -> None:
    for _ in range(count):
        starts.after_step()


def test_the_noise_fades_by_half_a_cosine() -> None:
    starts = NoisyLearnedSlots(3, 16, noise_steps=300)
    noise = torch.randn(2, 3, 16)
    learned = starts.slots.detach()
    for taken, sigma in ((0, 1.0), (100, 0.75), (50, 0.5), (150, 0.0), (50, 0.0)):  # steps 0, 100, 150, 300, 350
        steps(starts, taken)
        expected = learned + noise * sigma * learned
        torch.testing.assert_close(starts(features(), noise=noise).detach(), expected, rtol=1e-6, atol=1e-7)
    assert int(starts.step) == 350
    assert starts.state_dict().keys() == {"slots", "step"}
    assert NoisyLearnedSlots(3, 16).noise_steps == 30_000


def test_no_noise_in_eval_mode() -> None:
    starts = NoisyLearnedSlots(3, 16).eval()
    assert torch.equal(starts(features(), noise=torch.randn(3, 16)), starts.slots.expand(2, 3, 16))


def test_the_noise_is_one_draw_per_image_and_hides_from_the_gradient() -> None:
    starts = NoisyLearnedSlots(3, 16)
    first, second = starts(features())
    assert not torch.equal(first, second)
    relative = torch.stack([starts(features(1))[0] for _ in range(400)]).detach()
    relative = relative / starts.slots.detach() - 1
    assert abs(float(relative.mean())) < 5 / math.sqrt(relative.numel())
    assert abs(float(relative.var()) - 1) < 5 * math.sqrt(2 / relative.numel())
    starts(features()).sum().backward()
    assert starts.slots.grad is not None
    assert torch.equal(starts.slots.grad, torch.full((3, 16), 2.0))


def test_bilevel_gives_learned_starts_exactly_the_gradient_of_the_last_iteration() -> None:
    starts, tokens = NoisyLearnedSlots(3, 16).double(), Features(torch.randn(2, 20, 16).double(), (4, 5))
    module = SlotAttention(16, iterations=4, gradient="bilevel").double()
    noise = torch.randn(2, 3, 16)
    cotangent = torch.randn(2, 3, 16).double()
    (module(tokens, starts(tokens, noise=noise)).vectors * cotangent).sum().backward()
    with torch.no_grad():
        settled = module(tokens, starts(tokens, noise=noise), iterations=3).vectors
    settled.requires_grad_()
    (expected,) = torch.autograd.grad((module(tokens, settled, iterations=1).vectors * cotangent).sum(), [settled])
    assert starts.slots.grad is not None
    assert torch.equal(starts.slots.grad, expected.sum(dim=0))


@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("kind", [RandomSlots, LearnedSlots])
def test_warm_starts_see_the_image_and_their_encoder_after_a_tenth_of_training(
    kind: type[InitialSlots], width: int
) -> None:
    starts = PreheatedSlots(kind(3, 16), total_steps=50, token_dim=width)
    tokens = features(width=width)
    noise = torch.randn(3, 16)
    warmed = starts(tokens, noise=noise)
    assert warmed.shape == (2, 3, 16)
    assert not torch.equal(warmed[0], warmed[1])
    inputs = [tokens.tokens.requires_grad_(), *starts.queries.parameters()]
    gradients = []
    for taken in (4, 1):
        steps(starts, taken)
        found = starts(tokens, noise=noise)
        assert torch.equal(found, warmed)
        gradients.append(torch.autograd.grad(found.square().sum(), inputs))
    assert int(starts.step) == 5  # a tenth of 50
    assert gradients[0][0].abs().max() == 0
    assert gradients[1][0].abs().max() > 0
    assert all(torch.equal(early, late) for early, late in zip(gradients[0][1:], gradients[1][1:], strict=True))


def test_warm_starts_are_bounded_however_far_their_queries_are() -> None:
    """Their loss pulls them to slots that were reached from them: without a bound both run away together."""
    warmed = PreheatedSlots(RandomSlots(3, 16), total_steps=10)(features(), noise=1e4 * torch.randn(3, 16))
    torch.testing.assert_close(warmed.norm(dim=-1), torch.full((2, 3), 4.0), rtol=1e-3, atol=0)  # sqrt(D)


def test_warm_starts_ask_the_image_in_any_order() -> None:
    starts = PreheatedSlots(RandomSlots(3, 16), total_steps=10)
    tokens, noise = features(), torch.randn(5, 16)
    order, shuffled = torch.randperm(5), torch.randperm(20)
    expected = starts(tokens, 5, noise)[:, order]
    found = starts(Features(tokens.tokens[:, shuffled], (4, 5)), 5, noise[order])
    torch.testing.assert_close(found, expected)


def test_training_begins_beside_the_starts_and_leaves_them_to_their_own_loss() -> None:
    inner = SlotAttention(16, gradient="bilevel")
    grouping, tokens = DisturbedStart(inner, 16), features()
    with torch.no_grad():
        grouping.log_sigma.copy_(torch.linspace(-1, 1, 16))
    starts = torch.randn(2, 1, 16).repeat(1, 3, 1).requires_grad_()  # three equal ones
    torch.manual_seed(1)
    found = grouping(tokens, starts).vectors
    torch.manual_seed(1)
    start = starts.detach() + torch.linspace(-1, 1, 16).exp() * torch.randn(2, 3, 16)
    assert torch.equal(found, inner(tokens, start).vectors)
    assert (found[:, 0] - found[:, 1]).norm() > 0.1  # noise parts them
    found.square().sum().backward()
    assert starts.grad is None
    assert grouping.log_sigma.grad is not None
    assert bool(grouping.log_sigma.grad.all())
    grouping.eval()
    settled = grouping(tokens, starts).vectors
    assert torch.equal(settled, inner(tokens, starts).vectors)
    torch.testing.assert_close(settled[:, 0], settled[:, 1])  # what is equal stays equal


@pytest.mark.parametrize(("kind", "width"), [(PointSlots, 2), (BoxSlots, 4)])
def test_known_hints_start_their_slots_and_the_others_are_normal(kind: type[PointSlots | BoxSlots], width: int) -> None:
    starts = kind(5, 16)
    noise = torch.randn(2, 5, 16)
    places = torch.rand(2, 3, width).sort(dim=-1).values
    known = torch.tensor([[True, False, True], [False, True, False]])
    places[~known] = torch.nan
    found = starts(features(), noise=noise, hints=Hints(places, known))
    expected = noise.clone()
    for image, row in known.nonzero().tolist():
        expected[image, row] = starts.output(starts.hidden(places[image, row]).relu())
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert all(
        bool(torch.isfinite(p.grad).all()) and bool(p.grad.any()) for p in starts.parameters() if p.grad is not None
    )
    assert all(p.grad is not None for p in starts.parameters())


def test_without_hints_every_slot_is_missing() -> None:
    noise = torch.randn(7, 16)
    assert torch.equal(PointSlots(5, 16)(features(), 7, noise), noise.expand(2, 7, 16))
    inside = RandomSlots(5, 16)
    starts = PointSlots(5, 16, missing=inside)
    assert torch.equal(starts(features(), 7, noise), inside(features(), 7, noise))
    none = Hints(torch.zeros(2, 0, 2), torch.zeros(2, 0, dtype=torch.bool))
    assert torch.equal(starts(features(), 7, noise, none), inside(features(), 7, noise))


def test_missing_starts_keep_their_initialisation_and_their_k() -> None:
    inside = LearnedSlots(5, 16)
    before = inside.slots.detach().clone()
    starts = BoxSlots(5, 16, missing=inside)
    assert torch.equal(inside.slots, before)
    with pytest.raises(ValueError, match="fixed at K = 5"):
        starts.count(6)


def test_bad_hints_are_named() -> None:
    starts, tokens = PointSlots(3, 16), features()

    def hints(places: Tensor, known: Tensor | None = None) -> Hints:
        return Hints(places, torch.ones(places.shape[:2], dtype=torch.bool) if known is None else known)

    with pytest.raises(ValueError, match="4 hints cannot start 3 slots"):
        starts(tokens, hints=hints(torch.rand(2, 4, 2)))
    with pytest.raises(ValueError, match=r"needs hints \(2, M, 2\), \(x, y\) of a centre, got \(2, 3, 4\)"):
        starts(tokens, hints=hints(torch.rand(2, 3, 4)))
    with pytest.raises(ValueError, match="known must be bool"):
        starts(tokens, hints=hints(torch.rand(2, 3, 2), torch.ones(2, 3)))
    for bad in (1.01, -0.01, torch.nan, torch.inf):
        places = torch.rand(2, 3, 2)
        places[1, 2, 0] = bad
        with pytest.raises(ValueError, match="hint 2 of image 1 is known but lies at"):
            starts(tokens, hints=hints(places))
        known = torch.ones(2, 3, dtype=torch.bool)
        known[1, 2] = False
        assert torch.isfinite(starts(tokens, hints=hints(places, known))).all()
    with pytest.raises(ValueError, match="x0 <= x1"):
        BoxSlots(3, 16)(tokens, hints=hints(torch.tensor([0.5, 0.1, 0.4, 0.9]).expand(2, 1, 4)))
    with pytest.raises(ValueError, match="they must agree"):
        PointSlots(3, 16, missing=RandomSlots(4, 16))
    with pytest.raises(ValueError, match="noise_steps must be at least 1"):
        NoisyLearnedSlots(3, 16, noise_steps=0)
    with pytest.raises(ValueError, match="heads must divide"):
        PreheatedSlots(RandomSlots(3, 16), 10, heads=5)
    with pytest.raises(ValueError, match="total_steps must be at least 1"):
        PreheatedSlots(RandomSlots(3, 16), 0)
    with pytest.raises(ValueError, match=r"tokens must be \(B, N, 8\)"):
        PreheatedSlots(RandomSlots(3, 16), 10, token_dim=8)(tokens)


@pytest.mark.parametrize("name", ["noisy", "preheated", "points"])
def test_starts_compile_without_graph_breaks_and_agree(name: str) -> None:
    starts: InitialSlots = {
        "noisy": NoisyLearnedSlots(3, 16),
        "preheated": PreheatedSlots(RandomSlots(3, 16), 10),
        "points": PointSlots(3, 16),
    }[name]
    tokens, noise = torch.randn(2, 20, 16), torch.randn(3, 16)
    places, known = torch.rand(2, 2, 2), torch.tensor([[True, False], [True, True]])

    def step(tokens: Tensor, places: Tensor) -> Tensor:
        vectors: Tensor = starts(Features(tokens, (4, 5)), None, noise, Hints(places, known))
        return vectors

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens, places), step(tokens, places), rtol=1e-5, atol=1e-6)
    if name == "points":  # no check there, but no silence either
        assert compiled(tokens, places + 1)[0].isnan().any(dim=-1).tolist() == [True, False, False]


def test_boxes_are_tight_around_the_visible_pixels() -> None:
    scenes = SpriteScenes(40, image_size=32, num_objects=(1, 5), separation=0.0)
    boxed = WithBoxes(scenes)
    for item, plain in zip(boxed.__getitems__(range(40)), scenes.__getitems__(range(40)), strict=True):
        assert item.keys() == plain.keys() | {"boxes", "box_known"}
        assert torch.equal(item["box_known"], plain["visible"])
        for m, box in enumerate(item["boxes"]):
            rows, columns = (plain["segmentation"] == m + 1).nonzero(as_tuple=True)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0] * 4
            assert (box * 32).tolist() == [int(edge) for edge in expected]
    assert (boxed.image_size, boxed.max_objects, boxed.block, len(boxed)) == ((32, 32), 5, 32, 40)
    assert boxed.categories == scenes.categories


class _Items(torch.utils.data.Dataset[dict[str, Tensor]]):
    def __init__(self, **item: Tensor) -> None:
        self.item = item

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.item


def test_boxes_need_a_segmentation_that_fits() -> None:
    images, visible = torch.zeros(3, 4, 6), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ValueError, match='needs items with "segmentation"'):
        WithBoxes(_Items(images=images, visible=visible))
    with pytest.raises(ValueError, match="label 3 in a segmentation of items with 2 objects"):
        WithBoxes(_Items(images=images, visible=visible, segmentation=torch.full((4, 6), 3)))[0]
    item = WithBoxes(_Items(images=images, visible=visible, segmentation=torch.full((4, 6), -1)))[0]
    assert not item["box_known"].any()
    assert not item["boxes"].any()


def test_a_set_without_objects_has_no_boxes() -> None:
    images, visible = torch.zeros(3, 4, 6), torch.ones(0, dtype=torch.bool)
    item = WithBoxes(_Items(images=images, visible=visible, segmentation=torch.zeros(4, 6)))[0]
    assert (item["boxes"].shape, item["box_known"].shape) == ((0, 4), (0,))

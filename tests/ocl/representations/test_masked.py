"""Segments as slots: equal to encoding them one by one, whatever their order, number and padding."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ocl.encoders.cnn import CNNEncoder
from ocl.masks.apply import Black, Grey, GreyCrop, MaskApplication
from ocl.masks.base import Masks, networks_of
from ocl.masks.filters import Filters, LargestArea
from ocl.masks.image_encoders import ImageEncoder, TokenMean
from ocl.masks.sources import Filtered, SlotMasks
from ocl.representations import MaskedObjectEncoder, ObjectEncoder, RandomCNN, SlotMean
from ocl.representations.masked import _largest, place_and_size
from ocl.shapes import Batch

IMAGES, COUNT, SIZE = 5, 6, 40


class Given:
    """The masks that it was built with, whatever the images."""

    def __init__(self, masks: Masks, name: str = "given") -> None:
        self.name = name
        self._masks = masks

    def __call__(self, batch: Batch) -> Masks:
        return self._masks


def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (IMAGES, 3, SIZE, SIZE + 8), generator=generator, dtype=torch.uint8)


def masks(count: int = COUNT, soft: bool = False) -> Masks:
    """Random boxes; the last image has none, the first lacks two in the middle."""
    generator = torch.Generator().manual_seed(2)
    found = torch.zeros(IMAGES, count, SIZE, SIZE + 8)
    for image in range(IMAGES - 1):
        for number in range(count):
            top, left = torch.randint(0, 30, (2,), generator=generator).tolist()
            tall, wide = torch.randint(1, 18, (2,), generator=generator).tolist()
            found[image, number, top : top + tall, left : left + wide] = 1
    found[0, 1:3] = 0
    scores = torch.rand(IMAGES, count, generator=generator) + 0.1
    return Masks.of(found * torch.rand(found.shape, generator=generator) if soft else found.bool(), scores)


def cnn(seed: int = 0, size: int = 16) -> ImageEncoder:
    torch.manual_seed(seed)
    return TokenMean(CNNEncoder((size, size), 8, 8, (2, 2)))


def encoder(
    given: Masks, num_slots: int = COUNT, application: MaskApplication | None = None, **options: object
) -> MaskedObjectEncoder:
    return MaskedObjectEncoder(Given(given), application or GreyCrop(16), cnn(), num_slots, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_equals_a_loop_over_images_and_masks(soft: bool, chunk: int) -> None:
    given = masks(soft=soft)
    made = encoder(given, chunk=chunk)
    slots = made(Batch(images()))
    single, application = cnn(), GreyCrop(16)
    assert slots.valid.sum() == (IMAGES - 1) * COUNT - 2
    for image in range(IMAGES):
        for number in range(COUNT):
            expected = torch.zeros(8)
            if given.valid[image, number]:
                one = given.masks[image : image + 1, number : number + 1]
                expected = single(application(images()[image : image + 1], one)[0])[0]
            torch.testing.assert_close(slots.vectors[image, number], expected, rtol=1e-4, atol=1e-5)
    assert slots.masks is not None
    assert torch.equal(slots.masks, given.masks.float())
    assert torch.equal(slots.valid, given.valid)


def test_only_valid_segments_are_encoded() -> None:
    made, seen = encoder(masks(), chunk=8), []
    made.image_encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    made(Batch(images()))
    assert sum(seen) == masks().valid.sum()
    assert max(seen) <= 8


def test_permuted_masks_are_permuted_slots() -> None:
    given, order = masks(), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = Masks(given.masks[:, order], given.scores[:, order], given.valid[:, order])
    first, second = encoder(given, geometry=True)(Batch(images())), encoder(permuted, geometry=True)(Batch(images()))
    torch.testing.assert_close(first.vectors[:, order], second.vectors, rtol=1e-5, atol=1e-6)
    assert torch.equal(first.valid[:, order], second.valid)


def test_padding_changes_nothing() -> None:
    exact, padded = encoder(masks(), COUNT), encoder(masks(), COUNT + 4)
    first, second = exact(Batch(images())), padded(Batch(images()))
    assert second.vectors.shape == (IMAGES, COUNT + 4, 8)
    torch.testing.assert_close(first.vectors, second.vectors[:, :COUNT])
    assert not second.valid[:, COUNT:].any()
    assert not second.vectors[:, COUNT:].any()


def test_the_largest_scores_are_kept_in_the_order_of_the_source() -> None:
    given = masks()
    given.scores[1] = torch.tensor([0.3, 0.9, 0.5, 0.5, 0.1, 0.5])
    everything, some = encoder(given)(Batch(images())), encoder(given, 3)(Batch(images()))
    torch.testing.assert_close(some.vectors[1], everything.vectors[1, [1, 2, 3]])  # of equal scores the first
    assert some.valid[0].all(), "what is not valid is dropped before what is"
    best = given.scores[2].topk(3).indices.sort().values
    torch.testing.assert_close(some.vectors[2], everything.vectors[2, best])


@pytest.mark.parametrize("count", [0, 2])
def test_images_without_masks_have_no_valid_slot(count: int) -> None:
    empty = Masks.of(torch.zeros(IMAGES, count, SIZE, SIZE + 8, dtype=torch.bool))
    slots = encoder(empty, 3, geometry=True)(Batch(images()))
    assert slots.vectors.shape == (IMAGES, 3, 13)
    assert not slots.valid.any()
    assert not slots.vectors.any()


def test_geometry_is_where_and_how_large() -> None:
    found = torch.zeros(1, 3, 20, 40, dtype=torch.bool)
    found[0, 0, 5:10, 8:24] = True
    found[0, 1, 19, 39] = True
    x, y, spread_x, spread_y, area = place_and_size(Masks.of(found)).unbind(-1)
    torch.testing.assert_close(x, torch.tensor([[16 / 40, 39.5 / 40, 0]]))
    torch.testing.assert_close(y, torch.tensor([[7.5 / 20, 19.5 / 20, 0]]))
    # A row of n pixels of width w has the variance (n^2 - 1) w^2 / 12.
    torch.testing.assert_close(spread_x, torch.tensor([[((16**2 - 1) / 12) ** 0.5 / 40, 0, 0]]))
    torch.testing.assert_close(spread_y, torch.tensor([[((5**2 - 1) / 12) ** 0.5 / 20, 0, 0]]))
    torch.testing.assert_close(area, torch.tensor([[80 / 800, 1 / 800, 0]]))
    plain, with_places = encoder(masks())(Batch(images())), encoder(masks(), geometry=True)(Batch(images()))
    assert torch.equal(with_places.vectors[..., :8], plain.vectors)
    assert torch.equal(with_places.vectors[..., 8:], place_and_size(masks()))


def test_frozen() -> None:
    made = encoder(masks())
    picture = images().float().div(255).requires_grad_()
    assert not made(Batch(picture)).vectors.requires_grad
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert not any(module.training for module in made.train().modules())


class Module(nn.Module):
    """A source that is a module."""

    requires = frozenset({"images", "segmentation"})

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, batch: Batch) -> Masks:
        return masks()


def test_fingerprint_changes_with_every_part(tmp_path: Path) -> None:
    given = masks()
    different = [
        encoder(given),
        encoder(given, 3),
        encoder(given, geometry=True),
        encoder(given, application=Grey(16)),
        encoder(given, application=Black(16)),
        encoder(given, application=GreyCrop(16, pad_ratio=0.1)),
        MaskedObjectEncoder(Given(given, "other"), GreyCrop(16), cnn(), COUNT),
        MaskedObjectEncoder(Given(given), GreyCrop(16), cnn(seed=1), COUNT),
        MaskedObjectEncoder(Module(0.0), GreyCrop(16), cnn(), COUNT),
        MaskedObjectEncoder(Module(1.0), GreyCrop(16), cnn(), COUNT),
    ]
    prints = [made.fingerprint for made in different]
    assert len(set(prints)) == len(prints)
    same = [encoder(given), encoder(given, chunk=3), encoder(given, cache=tmp_path)]
    assert {made.fingerprint for made in same} == {prints[0]}, "what does not change the vectors does not count"


def test_requires_what_its_source_requires() -> None:
    assert encoder(masks()).requires == {"images"}
    made = MaskedObjectEncoder(Module(0.0), GreyCrop(16), cnn(), COUNT)
    assert made.requires == {"images", "segmentation"}


def test_a_second_run_with_a_cache_encodes_nothing(tmp_path: Path) -> None:
    first = encoder(masks(), cache=tmp_path)
    expected = first(Batch(images())).vectors
    assert torch.equal(expected, encoder(masks())(Batch(images())).vectors)
    first._embed.flush()
    second = encoder(masks(), cache=tmp_path)
    second.image_encoder.register_forward_hook(lambda *_: pytest.fail("a known segment was encoded again"))
    assert torch.equal(second(Batch(images())).vectors, expected)


def test_slot_mean_is_the_mean_of_the_valid_slots() -> None:
    patches: ObjectEncoder = RandomCNN((16, 16), 8)
    pictures = torch.rand(4, 3, 16, 16)
    expected = patches(Batch(pictures)).vectors.mean(1)
    torch.testing.assert_close(SlotMean(patches)(pictures), expected)

    class Half(RandomCNN):
        def encode(self, batch: Batch):  # type: ignore[no-untyped-def]
            slots = super().encode(batch)
            slots.valid[:, ::2] = False
            return slots

    torch.testing.assert_close(
        SlotMean(Half((16, 16), 8))(pictures), patches(Batch(pictures)).vectors[:, 1::2].mean(1), rtol=1e-5, atol=1e-6
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="size=16"):
        encoder(masks(), application=GreyCrop(24))
    with pytest.raises(ValueError, match="num_slots"):
        encoder(masks(), 0)
    with pytest.raises(ValueError, match="only its picture"):
        SlotMean(MaskedObjectEncoder(Module(0.0), GreyCrop(16), cnn(), 2))
    with pytest.raises(ValueError, match="squares"):
        SlotMean(RandomCNN((16, 32), 8))
    with pytest.raises(ValueError, match="16 x 32"):
        TokenMean(CNNEncoder((16, 32), 8, 8))


class Configured(nn.Module):
    """A source that is a module with settings that are neither plain nor modules."""

    def __init__(self, filters: Filters, finish: Callable[[Masks], Masks] | None = None) -> None:
        super().__init__()
        self.filters, self.finish = filters, finish

    def forward(self, batch: Batch) -> Masks:
        return self.filters(masks())


def test_fingerprint_sees_the_settings_of_modules_and_of_encoders_in_encoders() -> None:
    few, many = Filters([LargestArea(1)]), Filters([LargestArea(2)])

    def nested(filters: Filters) -> MaskedObjectEncoder:
        return MaskedObjectEncoder(Filtered(Given(masks()), filters), GreyCrop(16), cnn(), 2)

    sources = [
        *(Configured(filters) for filters in (few, many)),
        *(SlotMasks(nested(filters)) for filters in (few, many)),
        *(SlotMasks(nested(filters).encode) for filters in (few, many)),
        *(Configured(few, partial(_largest, count=count)) for count in (1, 2)),
    ]
    prints = [MaskedObjectEncoder(source, GreyCrop(16), cnn(), COUNT).fingerprint for source in sources]
    assert len(set(prints)) == len(prints)
    encoders = [SlotMean(nested(filters), image_size=16) for filters in (few, many)]
    assert encoders[0].fingerprint != encoders[1].fingerprint
    again = [SlotMean(nested(few), image_size=16).fingerprint, encoders[0].fingerprint]
    assert again[0] == again[1]
    outer = [MaskedObjectEncoder(Given(masks()), GreyCrop(16), made, COUNT).fingerprint for made in encoders]
    assert outer[0] != outer[1]


def test_networks_are_found_wherever_a_source_keeps_them() -> None:
    class Nested:
        def __init__(self) -> None:
            self.myself = self
            self.named = {"a": nn.Linear(2, 3), "b": [nn.Linear(3, 4)]}
            self.method = nn.Linear(4, 5).forward
            self.again = self.named["a"]
            self.library = torch

    widths = [module.out_features for module in networks_of(Nested())]  # type: ignore[attr-defined]
    assert sorted(widths) == [3, 4, 5]

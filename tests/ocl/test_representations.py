"""Every object encoder: frozen, a function of its input alone, and fingerprinted by everything that changes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.model import ObjectCentricModel
from ocl.representations import (
    FrozenSlotModel,
    ObjectEncoder,
    OracleMasks,
    OracleObjects,
    Pixels,
    RandomCNN,
    Tokens,
    ViTPatches,
    ViTPooled,
)
from ocl.shapes import Batch, Features
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots, RandomSlots

VIT = "vit_tiny_patch16_224"


def slot_model(seed: int = 0, iterations: int = 3, image_size: int = 32, learned: bool = False) -> ObjectCentricModel:
    torch.manual_seed(seed)
    return ObjectCentricModel(
        CNNEncoder((image_size, image_size), 16, 8, (2, 2)),
        LearnedSlots(4, 16) if learned else RandomSlots(4, 16),
        SlotAttention(16, iterations=iterations),
        BroadcastDecoder(16, (image_size // 4, image_size // 4), 8, (2, 2)),
    )


def vit(kind: type[ViTPatches] | type[ViTPooled]) -> ObjectEncoder:
    torch.manual_seed(0)
    return kind(VIT, (64, 64), pretrained=False)


def oracle_objects() -> OracleObjects:
    return OracleObjects(5, {"position": 2, "scale": 1}, {"shape": 3})


def batch(size: int = 32, count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
        torch.randint(-1, 6, (count, size, size), generator=generator),
        {
            "visible": torch.rand(count, 5, generator=generator) < 0.6,
            "position": torch.rand(count, 5, 2, generator=generator),
            "scale": torch.rand(count, 5, generator=generator),
            "shape": torch.randint(0, 3, (count, 5), generator=generator),
        },
    )


ENCODERS: dict[str, Callable[[], ObjectEncoder]] = {
    "slots": lambda: FrozenSlotModel(slot_model()),
    "learned slots": lambda: FrozenSlotModel(slot_model(learned=True)),
    "decoder masks": lambda: FrozenSlotModel(slot_model(), decoder_masks=True, num_slots=6),
    "patches": lambda: vit(ViTPatches),
    "pooled": lambda: vit(ViTPooled),
    "random cnn": lambda: RandomCNN((32, 32), dim=8),
    "pixels": lambda: Pixels((8, 4)),
    "oracle": oracle_objects,
    "true masks": lambda: OracleMasks(CNNEncoder((32, 32), 8, 8, (2, 2)), 5),
}


@pytest.mark.parametrize("build", ENCODERS.values(), ids=ENCODERS)
def test_contract(build: Callable[[], ObjectEncoder]) -> None:
    torch.manual_seed(0)
    encoder = build()
    data = batch()
    slots = encoder(data)
    assert slots.vectors.shape == (6, encoder.num_slots, encoder.dim)
    assert slots.vectors.dtype == torch.float32
    assert slots.vectors.isfinite().all()
    assert slots.valid.shape == (6, encoder.num_slots)
    assert slots.valid.dtype == torch.bool
    if slots.masks is not None:
        assert slots.masks.shape[:2] == (6, encoder.num_slots)
        assert 0 <= slots.masks.min() <= slots.masks.max() <= 1 + 1e-6
    # The same again, whatever the global random state, and image by image.
    torch.manual_seed(123)
    assert torch.equal(encoder(data).vectors, slots.vectors)
    for i in (0, 5):
        assert data.segmentation is not None
        columns = {name: values[i : i + 1] for name, values in data.objects.items()}
        one = encoder(Batch(data.images[i : i + 1], data.segmentation[i : i + 1], columns))
        torch.testing.assert_close(one.vectors[0], slots.vectors[i], rtol=1e-4, atol=1e-5)
    # Only what it says it requires.
    kept = Batch(
        data.images,
        data.segmentation if "segmentation" in encoder.requires else None,
        data.objects if "objects" in encoder.requires else {},
    )
    assert torch.equal(encoder(kept).vectors, slots.vectors)
    # Frozen.
    assert not any(module.training for module in encoder.train().modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not slots.vectors.requires_grad


@pytest.mark.parametrize("build", ENCODERS.values(), ids=ENCODERS)
def test_fingerprint_is_a_function_of_what_was_built(build: Callable[[], ObjectEncoder]) -> None:
    torch.manual_seed(0)
    encoder = build()
    torch.manual_seed(0)
    again = build()
    assert encoder.fingerprint == again.fingerprint
    assert len(encoder.fingerprint) == 64
    encoder(batch())
    assert encoder.fingerprint == again.fingerprint  # use leaves no trace


def test_fingerprint_changes_with_every_weight() -> None:
    encoder = FrozenSlotModel(slot_model())
    found = {encoder.fingerprint}
    for tensor in encoder.state_dict().values():
        tensor.view(-1)[-1] += 1e-3
        found.add(encoder.fingerprint)
    assert len(found) == len(encoder.state_dict()) + 1


def test_fingerprint_changes_with_every_setting() -> None:
    encoders = [
        FrozenSlotModel(slot_model()),
        FrozenSlotModel(slot_model(), initial_seed=1),
        FrozenSlotModel(slot_model(), num_slots=5),
        FrozenSlotModel(slot_model(), decoder_masks=True),
        FrozenSlotModel(slot_model(seed=1)),
        FrozenSlotModel(slot_model(iterations=2)),
        FrozenSlotModel(slot_model(image_size=16)),
        FrozenSlotModel(slot_model(learned=True)),
        RandomCNN((32, 32)),
        RandomCNN((32, 32), seed=1),
        RandomCNN((16, 32)),
        Pixels(),
        Pixels((8, 8)),
        oracle_objects(),
        OracleObjects(6, {"position": 2, "scale": 1}, {"shape": 3}),
        OracleObjects(5, {"scale": 1, "position": 2}, {"shape": 3}),
    ]
    assert len({encoder.fingerprint for encoder in encoders}) == len(encoders)


def test_fingerprint_sees_the_layer_of_a_vit() -> None:
    torch.manual_seed(0)
    weights = timm.create_model(VIT, pretrained=False, num_classes=0, img_size=64).state_dict()
    encoders = [ViTPatches(VIT, (64, 64), layer, pretrained=False) for layer in (3, 4)]
    for encoder in encoders:
        encoder.encoder.vit.load_state_dict(weights)
    assert encoders[0].fingerprint != encoders[1].fingerprint


def test_slot_starts_are_drawn_once_from_their_seed() -> None:
    encoder, other = FrozenSlotModel(slot_model()), FrozenSlotModel(slot_model(), initial_seed=1)
    data = batch()
    model = slot_model().eval()
    noise = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(data.images.float() / 255, noise=noise)
    torch.testing.assert_close(encoder(data).vectors, expected.slots.vectors, rtol=0, atol=0)
    masks = FrozenSlotModel(slot_model(), decoder_masks=True)(data).masks
    torch.testing.assert_close(masks, expected.decoded.masks, rtol=0, atol=0)
    assert not torch.allclose(encoder(data).vectors, other(data).vectors)


def test_slots_can_train_a_head() -> None:
    head = nn.Linear(16, 1)
    head(FrozenSlotModel(slot_model())(batch()).vectors).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_learned_starts_keep_their_number() -> None:
    with pytest.raises(ValueError, match="fixed at K = 4"):
        FrozenSlotModel(slot_model(learned=True), num_slots=5)
    with pytest.raises(TypeError, match="wraps an ObjectCentricModel, got Linear"):
        FrozenSlotModel(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["slots", "patches", "pooled", "random cnn", "pixels", "true masks"])
def test_other_sizes_are_resized_and_other_channels_refused(name: str) -> None:
    encoder = ENCODERS[name]()
    assert encoder(batch(48)).vectors.shape == (6, encoder.num_slots, encoder.dim)
    for images in (torch.zeros(2, 1, 32, 32), torch.zeros(2, 4, 32, 32), torch.zeros(3, 32, 32)):
        with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
            encoder(Batch(images, torch.zeros(2, 32, 32, dtype=torch.long)))
    with pytest.raises(TypeError, match="uint8"):
        encoder(Batch(torch.zeros(2, 3, 32, 32, dtype=torch.int64)))


def test_resizing_is_antialiased_as_in_pillow() -> None:
    images = batch(64).images
    found = Pixels((16, 16))(Batch(images)).vectors[..., :3].mT.unflatten(-1, (16, 16))
    for image, pixels in zip(images, found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)) / 255
        np.testing.assert_allclose(pixels.permute(1, 2, 0), expected, atol=1.01 / 255)  # Pillow rounds to 8 bits


def test_pixels_say_where_they_are() -> None:
    images = torch.zeros(1, 3, 2, 4)
    images[0, 0, 1, 3] = 1
    slots = Pixels((2, 4))(Batch(images))
    torch.testing.assert_close(slots.vectors[0, 7], torch.tensor([1, 0, 0, 0.875, 0.75]))
    torch.testing.assert_close(slots.vectors[0, 0], torch.tensor([0, 0, 0, 0.125, 0.25]))
    assert slots.masks is not None
    assert slots.masks[0, 7, 1, 3] == 1
    assert slots.masks.sum() == 8


def test_vit_gives_timms_own_answers() -> None:
    patches, pooled = vit(ViTPatches), vit(ViTPooled)
    reference = timm.create_model(VIT, pretrained=False, num_classes=0, img_size=64).eval()
    reference.load_state_dict(patches.encoder.vit.state_dict())
    images = batch(64).images
    config = timm.data.resolve_model_data_config(reference)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        tokens = reference.forward_intermediates((images / 255 - mean) / std, output_fmt="NLC")[1][-1]
        whole = reference((images / 255 - mean) / std)
    torch.testing.assert_close(patches(Batch(images)).vectors, tokens)
    torch.testing.assert_close(pooled(Batch(images)).vectors[:, 0], whole)
    assert pooled(Batch(images)).masks is None


def test_random_cnn_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    RandomCNN((32, 32), seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_oracle_writes_attributes_in_order() -> None:
    data = batch()
    slots = oracle_objects()(data)
    assert torch.equal(slots.valid, data.objects["visible"])
    for b in range(6):
        for m in range(5):
            expected = torch.zeros(6)
            if data.objects["visible"][b, m]:
                expected[:2] = data.objects["position"][b, m]
                expected[2] = data.objects["scale"][b, m]
                expected[3 + int(data.objects["shape"][b, m])] = 1
            assert torch.equal(slots.vectors[b, m], expected)


def test_oracle_ignores_what_is_not_visible() -> None:
    data = batch()
    hidden = ~data.objects["visible"]
    expected = oracle_objects()(data).vectors
    data.objects["position"][hidden] = float("nan")
    data.objects["shape"][hidden] = 99
    assert torch.equal(oracle_objects()(data).vectors, expected)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("position", None, 'no "position"; it has scale, shape, visible'),
        ("visible", None, 'no "visible"'),
        ("shape", torch.full((6, 5), 3), r"0\.\.2, got 0\.\.3|0\.\.2, got 3\.\.3"),
        ("shape", torch.zeros(6, 5), "integers"),
        ("position", torch.zeros(6, 5, 3), r"\(6, 5, 2\), got \(6, 5, 3\)"),
        ("position", torch.full((6, 5, 2), float("nan")), "not finite"),
        ("visible", torch.ones(6, 4, dtype=torch.bool), r"must be \(B, 5\)"),
    ],
)
def test_oracle_refuses(name: str, value: torch.Tensor | None, match: str) -> None:
    data = batch()
    data.objects.pop(name)
    if value is not None:
        data.objects[name] = value
    with pytest.raises(ValueError, match=match):
        oracle_objects()(data)
    with pytest.raises(ValueError, match="one attribute"):
        OracleObjects(5, {}, {})


class Quarters(nn.Module):
    """Tokens are the mean colours of the four quarters of a 32 x 32 image."""

    image_size, grid, dim = (32, 32), (2, 2), 3

    def forward(self, images: torch.Tensor) -> Features:
        return Features(nn.functional.avg_pool2d(images, 16).flatten(2).mT, self.grid)


def test_true_masks_pool_by_their_share_of_each_cell() -> None:
    images = torch.zeros(1, 3, 32, 32)
    images[0, 0, :16, :16] = 1  # the first quarter is red
    segmentation = torch.zeros(1, 32, 32, dtype=torch.long)
    segmentation[0, :16, 8:24] = 1  # half in the first quarter, half in the second
    segmentation[0, 20:24, 20:24] = 3
    segmentation[0, 0, 0] = -1
    slots = OracleMasks(Quarters(), 3)(Batch(images, segmentation))
    assert slots.valid.tolist() == [[True, False, True]]
    torch.testing.assert_close(slots.vectors[0], torch.tensor([[0.5, 0, 0], [0, 0, 0], [0, 0, 0]]))
    assert slots.masks is not None
    torch.testing.assert_close(slots.masks[0, 0], torch.tensor([[0.5, 0.5], [0, 0]]))
    torch.testing.assert_close(slots.masks[0, 2], torch.tensor([[0, 0], [0, 1 / 16]]))


def test_true_masks_refuse() -> None:
    encoder = OracleMasks(Quarters(), 3)
    images = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="needs the segmentation"):
        encoder(Batch(images))
    with pytest.raises(ValueError, match="needs the segmentation"):
        encoder(Batch(images, torch.zeros(1, 16, 16, dtype=torch.long)))
    with pytest.raises(ValueError, match=r"-1\.\.3, got 4"):
        encoder(Batch(images, torch.full((1, 32, 32), 4)))


def test_tokens_are_the_encoders_in_raster_order() -> None:
    slots = Tokens(Quarters())(Batch(batch(32).images))
    assert slots.masks is not None
    assert torch.equal(slots.masks[3].flatten(1), torch.eye(4))
    expected = (batch(32).images.float() / 255)[2, :, 16:, :16].mean(dim=(1, 2))
    torch.testing.assert_close(slots.vectors[2, 2], expected)

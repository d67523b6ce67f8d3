"""Patches on disk: what the encoder gave, where it gave it, with the labels that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ocl.binding.labels import patch_labels
from ocl.binding.pairs import places_of, sample_patches
from ocl.binding_study.patch_encoders import LayerTokens, ObjectTokens, PatchEncoder, patch_encoder
from ocl.binding_study.patch_store import extract_patches, labels_at, load_patches
from ocl.data.bsds500 import BSDS500
from ocl.data.collate import collate
from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.encoders.vit_layers import ViTLayers
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel, ObjectEncoder, Pixels, RandomCNN, ViTPatches, ViTPooled
from ocl.shapes import IGNORE, Batch, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.store import FeatureStore

SIZE, OBJECTS = 22, 4
ARGUMENTS: dict[str, Any] = {"patches": 9, "classes": "class", "shard_size": 8, "batch_size": 4, "progress": False}


class Blocks(Dataset[dict[str, Tensor]]):
    """Images of 4 x 6 cells of 16 pixels; each cell shows one object (0 background) in an arbitrary texture."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        cells = rng.integers(0, OBJECTS + 1, (4, 6))
        return {
            "images": torch.from_numpy(rng.integers(0, 256, (3, 64, 96), dtype=np.uint8)),
            "segmentation": torch.from_numpy(cells.repeat(16, 0).repeat(16, 1)),
            "visible": torch.ones(OBJECTS, dtype=torch.bool),
            "class": torch.from_numpy(rng.integers(5, 8, OBJECTS)),
            "stuff": torch.arange(OBJECTS) == index % OBJECTS,
            "scale": torch.ones(OBJECTS),
        }


def vit(seed: int = 0, **arguments: Any) -> ViTLayers:
    torch.manual_seed(seed)
    return ViTLayers("vit_tiny_patch16_224", (64, 96), **{"layers": [0, 2], "pretrained": False, **arguments})


def slot_model() -> FrozenSlotModel:
    torch.manual_seed(0)
    return FrozenSlotModel(
        ObjectCentricModel(
            CNNEncoder((64, 96), 16, 8, (2, 2)),
            RandomSlots(4, 16),
            SlotAttention(16),
            BroadcastDecoder(16, (16, 24), 8, (2, 2)),
        )
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "manifest.json"}


def test_the_store_holds_tokens_labels_and_classes_of_the_drawn_patches(tmp_path: Path) -> None:
    data, encoder = Blocks(), vit(parts=("block", "key"))
    store = extract_patches(encoder, data, tmp_path, **ARGUMENTS)
    assert store is not None
    found = load_patches(store)
    assert found.tokens.shape == (4, SIZE, 9, 192)
    assert found.tokens.dtype == torch.float16
    assert store.provenance["encoder"]["places"] == ["block 0", "block 2", "key 0", "key 2"]
    batch = collate([data[index] for index in range(SIZE)])
    assert batch.segmentation is not None
    labels = patch_labels(batch.segmentation, (4, 6)).labels
    drawn = sample_patches(labels, 9, range(SIZE))
    expected = encoder(batch.images / 255)
    torch.testing.assert_close(
        found.tokens.float(), expected.take_along_dim(drawn[None, :, :, None], 2), rtol=2e-3, atol=2e-3
    )
    assert torch.equal(found.objects, labels.gather(1, drawn))
    assert found.classes is not None
    for image, number in ((0, 0), (21, 8), (13, 4)):
        label = int(found.objects[image, number])
        category = IGNORE if label == 0 else int(batch.objects["class"][image, label - 1])
        assert found.classes[image, number] == category
    assert found.places is not None
    assert torch.equal(found.places, places_of(drawn, (4, 6)))
    means = (batch.images / 255).unfold(2, 16, 16).unfold(3, 16, 16).mean((-2, -1)).flatten(2).mT
    colours = store.read_all(["colours"])["colours"]
    np.testing.assert_allclose(colours, means.take_along_dim(drawn[:, :, None], 1), atol=1e-3)
    some = load_patches(store, images=[5, 2], places=["key 2"])
    assert torch.equal(some.tokens, found.tokens[3:, [5, 2]])
    assert torch.equal(some.objects, found.objects[[5, 2]])


def test_half_precision_takes_half_the_room(tmp_path: Path) -> None:
    for dtype in ("float16", "float32"):
        extract_patches(vit(), Blocks(), tmp_path / dtype, dtype=dtype, **{**ARGUMENTS, "patches": 24})
    half, full = (sum(map(len, contents(tmp_path / dtype).values())) for dtype in ("float16", "float32"))
    assert half <= full * 0.52  # numbers of patches and headers are of one size in both
    exact, rounded = (FeatureStore(tmp_path / dtype).read_all(["tokens"])["tokens"] for dtype in ("float32", "float16"))
    assert rounded.nbytes * 2 == exact.nbytes
    np.testing.assert_allclose(rounded, exact, rtol=1e-3, atol=1e-5)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = extract_patches(vit(), Blocks(), tmp_path / "whole", **ARGUMENTS)
    assert whole is not None
    for kept in range(3):  # killed after `kept` of three shards, the next one half written
        folder = tmp_path / f"killed after {kept}"
        folder.mkdir()
        names = sorted(path for path in (tmp_path / "whole").iterdir() if path.suffix == ".safetensors")
        for path in names[:kept]:
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / names[kept].name).write_bytes(names[kept].read_bytes()[:1000])
        assert extract_patches(vit(), Blocks(), folder, **ARGUMENTS) is not None
        assert contents(folder) == contents(tmp_path / "whole")
    shared = tmp_path / "shared"
    assert extract_patches(vit(), Blocks(), shared, worker=1, workers=2, **ARGUMENTS) is None
    assert extract_patches(vit(), Blocks(), shared, worker=0, workers=2, **ARGUMENTS) is not None
    assert contents(shared) == contents(tmp_path / "whole")


def test_stores_do_not_mix_encoders_places_labels_or_draws(tmp_path: Path) -> None:
    extract_patches(vit(), Blocks(), tmp_path, **ARGUMENTS)
    others: list[tuple[PatchEncoder | ViTLayers, Dataset[dict[str, Tensor]], dict[str, Any]]] = [
        (vit(seed=1), Blocks(), {}),
        (vit(layers=[0, 3]), Blocks(), {}),
        (vit(parts=("key",)), Blocks(), {}),
        (vit(), Blocks(1), {}),
        *((vit(), Blocks(), change) for change in ({"seed": 1}, {"purity": 0.5}, {"ignore": [0]}, {"classes": None})),
    ]
    for encoder, data, change in others:
        with pytest.raises(ValueError, match="already holds features of another origin"):
            extract_patches(encoder, data, tmp_path, **{**ARGUMENTS, **change})
    assert extract_patches(LayerTokens(vit()), Blocks(), tmp_path / "b", **ARGUMENTS) is not None


def test_objects_can_be_left_out(tmp_path: Path) -> None:
    store = extract_patches(vit(), Blocks(), tmp_path, **{**ARGUMENTS, "patches": 24}, ignore=[0], leave_out=["stuff"])
    assert store is not None
    found = load_patches(store)
    everything = torch.stack([Blocks()[i]["segmentation"][::16, ::16].flatten() for i in range(SIZE)])
    gone = (everything == 0) | (everything == torch.arange(SIZE)[:, None] % OBJECTS + 1)
    assert torch.equal(found.objects, everything.masked_fill(gone, IGNORE))
    assert found.classes is not None
    assert torch.equal(found.classes == IGNORE, gone)


@pytest.mark.parametrize("kind", ["patches", "cnn", "pixels"])
def test_slots_that_are_tokens_stay_themselves(kind: str) -> None:
    torch.manual_seed(0)
    encoder = {
        "patches": lambda: ViTPatches("vit_tiny_patch16_224", (64, 96), layer=2, pretrained=False),
        "cnn": lambda: RandomCNN((64, 96), dim=8, strides=(2, 2, 2, 2)),
        "pixels": lambda: Pixels((4, 6)),
    }[kind]()
    batch = collate([Blocks()[index] for index in range(3)])
    reader = patch_encoder(encoder)
    assert reader.grid == (4, 6)
    torch.testing.assert_close(reader(batch)[0], encoder(batch).vectors, rtol=1e-6, atol=1e-6)


def test_a_patch_of_a_slot_model_is_the_mean_of_its_slots() -> None:
    encoder = slot_model()
    batch = collate([Blocks()[index] for index in range(3)])
    slots = encoder(batch)
    assert slots.masks is not None
    assert slots.masks.shape == (3, 4, 16, 24)
    tokens = ObjectTokens(encoder, (4, 6))(batch)
    assert tokens.shape == (1, 3, 24, 16)
    for image, row, column in ((0, 0, 0), (2, 3, 5), (1, 2, 1)):
        shares = slots.masks[image, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean((-2, -1))
        expected = (shares / shares.sum()) @ slots.vectors[image]
        torch.testing.assert_close(tokens[0, image, 6 * row + column], expected)
    finer = ObjectTokens(encoder, (8, 12))
    assert (
        finer.fingerprint != ObjectTokens(encoder, (4, 6)).fingerprint == ObjectTokens(slot_model(), (4, 6)).fingerprint
    )


class Segments(ObjectEncoder):
    """Three overlapping segments; the last is padding with arbitrary contents."""

    num_slots, dim = 3, 2

    def encode(self, batch: Batch) -> Slots:
        masks = torch.zeros(len(batch), 3, 8, 8)
        masks[:, 0, :4], masks[:, 1, 2:4], masks[:, 2] = 1, 1, 1
        vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [torch.nan, 9.0]]).expand(len(batch), -1, -1)
        return Slots(vectors, masks, torch.tensor([True, True, False]).expand(len(batch), -1))


def test_padding_is_not_read_and_unclaimed_patches_are_zero() -> None:
    tokens = ObjectTokens(Segments(), (4, 1))(Batch(torch.zeros(2, 3, 8, 8)))
    assert tokens[0, 1].tolist() == [[1, 0], [0.5, 0.5], [0, 0], [0, 0]]


def test_slots_go_through_the_same_door(tmp_path: Path) -> None:
    store = extract_patches(slot_model(), Blocks(), tmp_path, grid=(4, 6), **ARGUMENTS)
    assert store is not None
    found = load_patches(store)
    assert found.tokens.shape == (1, SIZE, 9, 16)
    vits = extract_patches(vit(), Blocks(), tmp_path / "vit", **ARGUMENTS)
    assert vits is not None
    other = load_patches(vits)
    assert torch.equal(found.objects, other.objects)  # the same patches: the grid, the seed and the labels are
    assert torch.equal(found.places, other.places)  # type: ignore[arg-type]


def test_two_people_on_the_same_patches(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "BSDS500"
    first, second = (BSDS500(folder, "val", 224, annotator) for annotator in (0, 1))
    reader = patch_encoder(Pixels((14, 14)))
    store = extract_patches(reader, first, tmp_path, patches=64, progress=False)
    assert store is not None
    drawn = torch.from_numpy(store.read_all(["patches"])["patches"])
    found = load_patches(store)
    assert torch.equal(labels_at(first, drawn, (14, 14)), found.objects)
    theirs = labels_at(second, drawn, (14, 14))
    assert torch.equal(theirs[7], patch_labels(second[7]["segmentation"][None], (14, 14)).labels[0, drawn[7].long()])
    upper = torch.ones(64, 64, dtype=torch.bool).triu(1)
    agree = (found.same == (theirs[:, :, None] == theirs[:, None]))[:, upper].double().mean()
    different = (~found.same[:, upper]).double().mean()
    assert 0.84 < agree < 0.92  # two people agree on about 88 % of the pairs
    assert 0.66 < different < 0.76  # of which about 71 % are of two segments
    with pytest.raises(ValueError, match="the data set has 200 items, the patches 100 images"):
        labels_at(BSDS500(folder, "train", 224), drawn, (14, 14))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for encoder, arguments, message in (
        (vit(), {"patches": 25}, r"the grid \(4, 6\) has 24 patches; 1 to 24 can be kept, not 25"),
        (vit(), {"classes": "kind"}, r"no attribute 'kind'; it gives visible, class, stuff, scale"),
        (vit(), {"classes": "scale"}, r"'scale' is torch.float32; a class is an integer"),
        (vit(), {"grid": (2, 3)}, r"has a grid of \(4, 6\); it cannot be read at \(2, 3\)"),
        (vit(), {"dtype": "float8"}, "dtype must be one of"),
        (slot_model(), {}, "FrozenSlotModel has no grid of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            extract_patches(encoder, Blocks(), tmp_path / "a", **{**ARGUMENTS, **arguments})
    with pytest.raises(TypeError, match="Linear gives no tokens of patches"):
        patch_encoder(torch.nn.Linear(2, 2))
    pooled = ViTPooled("vit_tiny_patch16_224", (64, 96), pretrained=False)
    with pytest.raises(ValueError, match="ViTPooled gives no masks"):
        extract_patches(pooled, Blocks(), tmp_path / "b", grid=(4, 6), **ARGUMENTS)
    reader, batch = LayerTokens(vit()), collate([Blocks()[0]])
    assert batch.segmentation is not None
    cropped = {**Blocks()[0], "segmentation": batch.segmentation[0, :32]}
    with pytest.raises(ValueError, match=r"is \(32, 96\), its images \(64, 96\); they must be of one size"):
        extract_patches(reader, [cropped], tmp_path / "c", description="cropped", **ARGUMENTS)  # type: ignore[arg-type]
    bare = {name: value for name, value in cropped.items() if name != "segmentation"}
    with pytest.raises(ValueError, match="no segmentation, so patches have no objects"):
        extract_patches(reader, [bare], tmp_path / "d", description="bare", **ARGUMENTS)  # type: ignore[arg-type]
    store = extract_patches(vit(), Blocks(), tmp_path / "e", **ARGUMENTS)
    assert store is not None
    with pytest.raises(ValueError, match="holds block 0, block 2; it does not hold"):
        load_patches(store, places=["block 7"])

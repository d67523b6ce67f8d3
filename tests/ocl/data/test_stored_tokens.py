"""Training from a store of tokens is training on the images, with any frozen encoder's tokens and only with its own."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import Dataset

from ocl.bfloat16 import tensor_of
from ocl.checkpoints import load_encoder
from ocl.data.collate import collate
from ocl.data.mirrored import Mirrored, mirrored
from ocl.data.sprite_scenes import SpriteScenes
from ocl.data.stored_tokens import StoredTokens
from ocl.decoders.mlp import MLPDecoder
from ocl.encoders.cached import CachedEncoder
from ocl.encoders.cnn import CNNEncoder
from ocl.encoders.vit import ViTEncoder
from ocl.features import extract
from ocl.fit import run
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel, TokenProjection
from ocl.representations import OracleObjects, Tokens
from ocl.shapes import Batch, frames_as_float, images_as_float
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots
from ocl.store import FeatureStore

IMAGES, BATCH, SIZE = 16, 4, 32
VIT: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "image_size": [SIZE, SIZE],
    "pretrained": False,
    "arguments": {"patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2},
}
SCENES: dict[str, Any] = {"size": IMAGES, "seed": 0, "image_size": SIZE}


def vit(seed: int = 5, **changes: Any) -> ViTEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ViTEncoder(**{**VIT, **changes})


def images() -> Dataset[dict[str, Tensor]]:
    return SpriteScenes(**SCENES)


def stored(folder: Path, encoder: nn.Module, data: Dataset[dict[str, Tensor]] | None = None, **arguments: Any) -> Path:
    arguments = {"dtype": "float32", "labels": ["segmentation", "visible"], "batch_size": BATCH, **arguments}
    extract(Tokens(encoder), images() if data is None else data, folder, shard_size=10, progress=False, **arguments)
    return folder


def model_of(encoder: nn.Module) -> ObjectCentricModel:
    torch.manual_seed(1)
    decoder = MLPDecoder(16, 24, (4, 4), 32, 1)
    return ObjectCentricModel(encoder, LearnedSlots(4, 16), SlotAttention(16), decoder, TokenProjection(24, 16))


def losses(encoder: nn.Module, data: Dataset[dict[str, Tensor]], steps: int = 8) -> list[float]:
    """Of a model that is trained on batches in order."""
    model, found = model_of(encoder), []
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for step in range(steps):
        start = step * BATCH % IMAGES
        batch = collate([data[index] for index in range(start, start + BATCH)])
        loss = FeatureReconstruction()(model(frames_as_float(batch.images)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def test_losses_equal_those_of_recomputing_and_in_halves_nearly(tmp_path: Path) -> None:
    truth = losses(vit(), images())
    assert losses(CachedEncoder(vit()), images()) == truth
    assert losses(CachedEncoder(vit()), StoredTokens(stored(tmp_path / "whole", vit(), batch_size=2))) == pytest.approx(
        truth, rel=1e-5
    )
    # In the batches of training, which no end of a shard cuts, the tokens are the same to the last bit.
    extract(Tokens(vit()), images(), tmp_path / "exact", dtype="float32", batch_size=BATCH, progress=False)
    assert losses(CachedEncoder(vit()), StoredTokens(tmp_path / "exact")) == truth
    assert truth[-1] < 0.9 * truth[0], "nothing was learnt"
    for dtype, bits in (("bfloat16", 8), ("float16", 11)):
        folder = stored(tmp_path / dtype, vit(), dtype=dtype)
        tokens, exact = (
            tensor_of(FeatureStore(tmp_path / name).read_all()["vectors"]).float() for name in (dtype, "exact")
        )
        assert ((tokens - exact).abs() <= 2.0**-bits * exact.abs() + 1e-6).all(), "half a unit in the last place"
        assert losses(CachedEncoder(vit()), StoredTokens(folder)) == pytest.approx(truth, rel=4 * 2.0**-bits)


def test_items_are_tokens_with_the_labels_that_are_wanted(tmp_path: Path) -> None:
    folder = stored(tmp_path, vit())
    data = StoredTokens(folder)
    assert len(data) == IMAGES
    assert set(data[0]) == {"images", "segmentation", "visible"}
    assert set(StoredTokens(folder, labels=[])[0]) == {"images"}
    batch = collate([data[3], data[-1]])
    whole = collate([images()[3], images()[IMAGES - 1]])
    assert batch.images.shape == (2, 1, 16, 24)
    torch.testing.assert_close(batch.images[:, 0], vit()(images_as_float(whole.images)).tokens)
    assert torch.equal(batch.segmentation, whole.segmentation)
    assert torch.equal(batch.objects["visible"], whole.objects["visible"])


def test_mirrored_views_are_the_tokens_of_mirrored_images(tmp_path: Path) -> None:
    views = Mirrored(images())
    assert len(views) == 2 * IMAGES
    assert torch.equal(views[5]["images"], images()[5]["images"])
    data = StoredTokens(stored(tmp_path, vit(), views))
    flipped = {name: images()[5][name].flip(-1) for name in ("images", "segmentation")}
    tokens = vit()(images_as_float(flipped["images"][None])).tokens
    torch.testing.assert_close(data[IMAGES + 5]["images"], tokens)
    assert torch.equal(data[IMAGES + 5]["segmentation"].long(), flipped["segmentation"].long())
    of_tokens = vit()(images_as_float(images()[5]["images"][None])).tokens.unflatten(1, (4, 4)).flip(2).flatten(1, 2)
    assert (of_tokens - tokens).abs().max() > 0.1, "mirrored tokens would be others"


def test_a_mirrored_item_is_seen_in_a_mirror() -> None:
    item = SpriteScenes(4, image_size=32)[1]
    item = {name: item[name] for name in ("images", "segmentation", "visible", "position", "shape")}
    x, y = item["position"].unbind(-1)
    item["boxes"] = torch.stack([x - 0.1, y - 0.2, x + 0.3, y + 0.4], dim=-1)
    seen = mirrored(item)
    torch.testing.assert_close(seen["position"], torch.stack([1 - x, y], dim=-1))
    torch.testing.assert_close(seen["boxes"], torch.stack([0.7 - x, y - 0.2, 1.1 - x, y + 0.4], dim=-1))
    assert torch.equal(seen["shape"], item["shape"])
    again = mirrored(seen)
    for name, value in item.items():
        torch.testing.assert_close(again[name], value)
    with pytest.raises(ValueError, match="angle"):
        mirrored({**item, "angle": torch.zeros(3)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer": 0}, r"tokens of layer 1 instead of 0, as the model has it; extract its own\.$"),
        ({"image_size": [64, 64]}, r"grid \[4, 4\], image_size \[32, 32\] instead of \[8, 8\], \[64, 64\]"),
        ({"name": "vit_small_patch16_224"}, r"name vit_tiny_patch16_224 instead of vit_small_patch16_224"),
        ({"seed": 1}, r"tokens of other weights, as"),
    ],
)
def test_tokens_of_another_encoder_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    data = StoredTokens(stored(tmp_path, vit()))
    data.check(CachedEncoder(vit()))
    with pytest.raises(ValueError, match=message) as caught:
        data.check(CachedEncoder(vit(**changes)))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    data = StoredTokens(stored(tmp_path / "tokens", vit()))
    with pytest.raises(ValueError, match=r"only an .*CachedEncoder reads; put it around .* the ViTEncoder\.$"):
        data.check(vit())
    with pytest.raises(ValueError, match=r"the encoder gives 8 x 8 tokens of width 24, not 16 tokens of width 24\.$"):
        CachedEncoder(vit(image_size=[64, 64]))(data[0]["images"][None])
    with pytest.raises(ValueError, match="CNNEncoder is trained"):
        CachedEncoder(CNNEncoder((32, 32), 8))
    with pytest.raises(ValueError, match="has no label position; it has segmentation, visible"):
        StoredTokens(tmp_path / "tokens", labels=["position"])
    oracle = OracleObjects(5, {"position": 2}, {})
    extract(oracle, images(), tmp_path / "slots", progress=False)
    with pytest.raises(ValueError, match="holds no tokens of an image encoder"):
        StoredTokens(tmp_path / "slots")
    with pytest.raises(FileNotFoundError):
        StoredTokens(tmp_path / "nowhere")


def configuration(folder: Path, encoder: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    def node(path: str, **arguments: Any) -> dict[str, Any]:
        return {"class_path": path, "init_args": arguments}

    model = node(
        "ocl.model.ObjectCentricModel",
        encoder=encoder,
        projection=node("ocl.model.TokenProjection", token_dim=24, dim=16),
        initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=4, dim=16),
        grouping=node("ocl.slots.attention.SlotAttention", dim=16),
        decoder=node(
            "ocl.decoders.mlp.MLPDecoder", dim=16, feature_dim=24, grid=[4, 4], hidden_dim=32, hidden_layers=1
        ),
    )
    trainer = {"max_steps": 6, "val_check_interval": 6, "check_val_every_n_epoch": None, "log_every_n_steps": 1}
    return {
        "seed_everything": 0,
        "pictures": 2,
        "trainer": {**trainer, "default_root_dir": str(folder), "accelerator": "cpu", "enable_progress_bar": False},
        "model": {
            "model": model,
            "losses": {"features": node("ocl.losses.reconstruction.FeatureReconstruction")},
            "schedule": node("ocl.schedules.WarmupHalving", warmup_steps=2, half_life=100),
        },
        "data": {"batch_size": BATCH, "train": train, "val": train},
    }


def trained(tmp_path: Path, name: str, encoder: dict[str, Any], train: dict[str, Any]) -> list[dict[str, str]]:
    config = configuration(tmp_path / name, encoder, train)
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    run(["fit", "--config", str(tmp_path / f"{name}.yaml")])
    with (tmp_path / name / "logs" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_switch_gives_the_same_run(tmp_path: Path) -> None:
    """`ocl fit` from both: shuffled batches, both views, true masks, pictures, and a model that reads images."""
    torch.save(vit().vit.state_dict(), tmp_path / "vit.pth")
    encoder = {"class_path": "ocl.encoders.vit.ViTEncoder", "init_args": {**VIT, "weights": str(tmp_path / "vit.pth")}}
    scenes = {"class_path": "ocl.data.sprite_scenes.SpriteScenes", "init_args": SCENES}
    both = {"class_path": "ocl.data.mirrored.Mirrored", "init_args": {"dataset": scenes}}
    computed = trained(tmp_path, "computed", encoder, both)

    folder = stored(tmp_path / "store", vit(), Mirrored(images()), labels=["segmentation"])
    cached = {"class_path": "ocl.encoders.cached.CachedEncoder", "init_args": {"encoder": encoder}}
    tokens = {"class_path": "ocl.data.stored_tokens.StoredTokens", "init_args": {"folder": str(folder)}}
    read = trained(tmp_path, "read", cached, tokens)

    assert len(read) == len(computed)
    for one, other in zip(read, computed, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if one[name] or other[name]:
                assert float(one[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=1e-5), name
    assert any(row["val/foreground_ari"] for row in read)
    assert list((tmp_path / "read" / "pictures").glob("*.png"))
    batch = Batch(collate([images()[0], images()[7]]).images)
    slots = [load_encoder(tmp_path / name / "model")(batch).vectors for name in ("read", "computed")]
    torch.testing.assert_close(slots[0], slots[1], rtol=1e-4, atol=1e-4)

    tokens["init_args"]["folder"] = str(stored(tmp_path / "other", vit(seed=1), labels=["segmentation"]))
    with pytest.raises(ValueError, match="other weights"):
        trained(tmp_path, "refused", cached, tokens)

"""Attention, identical objects, the next block's attention, and chosen patches: each against what it must say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from ocl.binding.labels import patch_labels
from ocl.binding.next_attention import NextAttention
from ocl.binding.probes import Linear, Quadratic
from ocl.binding.saved import load_probe
from ocl.binding_study.attentions import ALL_HEADS, NEARNESS, attention_rows, attention_table, draw_attention, head_name
from ocl.binding_study.command import binding
from ocl.binding_study.differences import CHANCE, PURITY, VARIANCE, difference_rows, differences_table, draw_differences
from ocl.binding_study.maps import patch_at
from ocl.binding_study.models import AnyEncoder, TimmViT
from ocl.binding_study.patch_encoders import LayerTokens, PatchEncoder
from ocl.binding_study.rows import value_of
from ocl.binding_study.settings import Fitting, Sampling
from ocl.binding_study.study import next_blocks
from ocl.data.collate import collate
from ocl.data.twin_scenes import TwinScenes
from ocl.files import read_json
from ocl.representations import RandomCNN
from ocl.shapes import Batch

GRID, SIDE, DEPTH, HEADS = (8, 8), 64, 3, 3
ARGUMENTS = {"patch_size": 8, "embed_dim": 24, "depth": DEPTH, "num_heads": HEADS}
SAMPLING = Sampling(patches=24, ignore=(0,), classes="class")
FITTING = Fitting(epochs=2, held_out=0.25)


def scenes(size: int = 24, seed: int = 0) -> TwinScenes:
    return TwinScenes(size, seed)


def copies(size: int = 20) -> TwinScenes:
    """Four copies of one object, on the grid in the same way."""
    shapes = {"shapes": ("square", "circle"), "scales": (0.36,), "separation": 0.36}
    return TwinScenes(size, num_objects=(4, 4), kinds=1, lattice=8, **shapes)


def vit(**changes: Any) -> TimmViT:
    arguments = {**ARGUMENTS, **changes.pop("arguments", {})}
    return TimmViT("vit_tiny_patch16_224", (SIDE, SIDE), pretrained=False, arguments=arguments, **changes)


def study(folder: Path, **changes: Any) -> None:
    settings: dict[str, Any] = {"models": {"vit": vit()}, "sampling": SAMPLING, "fitting": FITTING, "pictures": 0}
    settings["probes"] = {"linear": Linear, "quadratic": Quadratic}
    torch.manual_seed(0)  # of the model, which is not trained
    binding(scenes(seed=1), scenes(12, seed=2), folder, **{**settings, **changes})


def test_attention_correlates_as_numpy_says(tmp_path: Path) -> None:
    encoder = vit().random(0)
    assert isinstance(encoder, LayerTokens)
    data = scenes(7)
    rows = attention_rows("vit", encoder, data, 5, Sampling(ignore=(0,)), batch_size=2)
    assert len(rows) == 1 + DEPTH * (HEADS + 1)
    found: dict[tuple[str, str], list[float]] = {}
    places = np.stack(np.divmod(np.arange(64), 8), axis=1)
    near = -np.linalg.norm(places[:, None] - places[None], axis=-1)
    for index in range(5):
        item = data[index]
        labels = patch_labels(item["segmentation"][None].long(), GRID).labels[0].numpy()
        use = (labels[:, None] > 0) & (labels[None] > 0) & ~np.eye(64, dtype=bool)
        same = (labels[:, None] == labels[None])[use]
        _, attention = encoder.layers.with_attention(item["images"][None] / 255)
        weights = attention[:, 0].double().numpy()  # (layers heads N N)
        each = {("-", NEARNESS): near}
        for layer in range(DEPTH):
            each |= {(f"block {layer}", head_name(head)): weights[layer, head] for head in range(HEADS)}
            each[f"block {layer}", ALL_HEADS] = weights[layer].mean(0)
        for key, values in each.items():
            found.setdefault(key, []).append(np.corrcoef(values[use], same)[0, 1])
    assert {(row["place"], row["probe"]) for row in rows} == set(found)
    for row in rows:
        assert row["value"] == pytest.approx(np.mean(found[row["place"], row["probe"]]), abs=1e-5)
        assert row["low"] <= row["value"] <= row["high"]
        assert (row["images"], row["dropped"], row["measure"]) == (5, 0, "correlation")
    assert list(attention_table(rows).columns[0].cells) == ["block 0", "block 1", "block 2"]
    with Image.open(draw_attention(rows, tmp_path / "attention.png")) as picture:
        assert np.asarray(picture).std() > 0


class Copies(PatchEncoder):
    """Tokens of what a patch shows, in both places; in "bound" also of whose it is, in other dimensions."""

    places, grid, dim = ("blank", "bound"), GRID, 40

    def encode(self, batch: Batch) -> Tensor:
        assert batch.segmentation is not None
        cells = F.unfold(batch.images.float() / 255, 8, stride=8).mT  # (B N 192)
        projection = torch.randn(cells.shape[-1], self.dim, generator=torch.Generator().manual_seed(0))
        content = cells @ projection
        noise = 0.1 * torch.randn(content.shape, generator=torch.Generator().manual_seed(1))
        labels = patch_labels(batch.segmentation, GRID).labels.clamp(min=0)
        own = 5 * F.one_hot(labels, self.dim).float()
        return torch.stack([content + noise, content + own + noise])


def test_copies_are_told_apart_only_where_tokens_say_whose_they_are(tmp_path: Path) -> None:
    rows, example = difference_rows("planted", Copies(), copies(), batch_size=8)
    value = {(row["place"], row["measure"]): row for row in rows}
    assert value["bound", PURITY]["value"] == 1
    assert value["bound", VARIANCE]["value"] > 0.95  # four copies span three directions, noise the rest
    blank, chance = value["blank", PURITY]["value"], value["blank", CHANCE]["value"]
    assert blank < chance + 0.1  # shared noise of the first copy groups patches, not objects
    assert 1 / 3 < chance < 0.75
    assert value["blank", VARIANCE]["value"] < 0.9
    assert all(row["images"] + row["dropped"] == 20 and row["images"] > 15 for row in rows)
    assert example.differences[1].projections.shape[0] == 3
    assert list(differences_table(rows).columns[0].cells) == ["blank", "bound"]
    with Image.open(draw_differences([example], tmp_path / "differences.png")) as picture:
        assert np.asarray(picture).std() > 0
    with pytest.raises(ValueError, match="none of the 6 images shows three copies"):
        difference_rows("planted", Copies(), TwinScenes(6, num_objects=(2, 2), lattice=8))


def test_the_command_adds_the_sections_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path, next_attention=True, attention=4, identical=copies(6))
    shown = capsys.readouterr().out
    assert "Correlation of attention" in shown
    assert "Differences between identical objects" in shown
    assert {"attention.png", "differences.png"} <= {path.name for path in tmp_path.iterdir()}
    rows = read_json(tmp_path / "results.json")
    for model in ("vit", "random (vit)"):
        mine = [row for row in rows if row["model"] == model]
        next_places = {row["place"] for row in mine if row["probe"] == "next attention"}
        assert next_places == {f"block {layer}" for layer in range(DEPTH - 1)}  # nothing reads the last one
        assert {row["place"] for row in mine if row["probe"] == head_name(2)} == {"block 0", "block 1", "block 2"}
        assert {row["measure"] for row in mine if row["probe"] == "identical objects"} == {PURITY, CHANCE, VARIANCE}
    assert value_of(rows, model="-", probe=NEARNESS) is not None
    assert len([row for row in rows if row["probe"] == NEARNESS]) == 1
    twin = vit().random(0)
    blocks = list(next_blocks(twin).values())
    path = tmp_path / "fits" / "random-vit" / "next-attention.safetensors"
    probe = load_probe(NextAttention(blocks), path)
    assert torch.equal(probe.projection, NextAttention(blocks).projection)
    assert (probe.scale != 1).all()  # fitted


def test_without_being_asked_there_are_no_sections(tmp_path: Path) -> None:
    study(tmp_path)
    assert {row["probe"] for row in read_json(tmp_path / "results.json") if row["model"] == "vit"} == {
        "linear",
        "quadratic",
        "quadratic, permuted",
    }


def test_a_fit_of_another_class_is_refused(tmp_path: Path) -> None:
    study(tmp_path)
    with safe_open(tmp_path / "fits" / "vit" / "linear.safetensors", "pt") as file:
        assert json.loads(file.metadata()["probe"])["class"] == "ocl.binding.probes.Linear"
    with pytest.raises(
        ValueError, match=r"linear\.safetensors holds a ocl\.binding\.probes\.Linear, not a .*Quadratic"
    ):
        study(tmp_path, probes={"linear": Quadratic, "quadratic": Quadratic})


def test_the_patch_of_a_point() -> None:
    numbers = torch.arange(12).view(3, 4)
    pixels = numbers.repeat_interleave(10, 0).repeat_interleave(16, 1)  # images of 30 x 64, a grid of 3 x 4
    for x, y in ((0, 0), (15, 9), (16, 9), (15, 10), (63.9, 29.9), (40, 17)):
        assert patch_at((x, y), (30, 64), (3, 4)) == pixels[int(y), int(x)]
    for outside in ((64, 0), (0, 30), (-1, 3)):
        with pytest.raises(ValueError, match=r"point is \(x, y\) in images of 30 x 64 pixels"):
            patch_at(outside, (30, 64), (3, 4))


def test_maps_of_a_patch_and_of_a_point_in_it_are_one(tmp_path: Path) -> None:
    study(tmp_path / "patch", patch=(2, 5), pictures=1)
    study(tmp_path / "point", point=(8 * 5 + 3, 8 * 2 + 7), pictures=1)
    study(tmp_path / "other", patch=(5, 2), pictures=1)
    one, same, other = ((tmp_path / name / "maps" / "vit.png").read_bytes() for name in ("patch", "point", "other"))
    assert one == same
    assert one != other
    with pytest.raises(ValueError, match="not both"):
        study(tmp_path / "both", patch=(2, 5), point=(1, 1))


def test_sections_that_cannot_be_had_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    cnn = {"cnn": AnyEncoder(RandomCNN((SIDE, SIDE)), GRID)}
    with pytest.raises(ValueError, match="only blocks of a ViT attend"):
        study(tmp_path, models=cnn, attention=2)
    with pytest.raises(ValueError, match="no model here is a ViT with a block after those"):
        study(tmp_path, models=cnn, next_attention=True)
    with pytest.raises(ValueError, match="no model here is a ViT with a block after those"):
        study(tmp_path, models={"vit": vit(layers=[-1])}, next_attention=True)
    with pytest.raises(ValueError, match="normalises its queries head by head"):
        study(tmp_path, models={"vit": vit(arguments={"qk_norm": True})}, next_attention=True)
    for negative in ("attention", "pictures"):
        with pytest.raises(ValueError, match="are numbers of images, got"):
            study(tmp_path, **{negative: -1})
    with pytest.raises(ValueError, match="is the name of a probe of the study"):
        study(tmp_path, next_attention=True, probes={"quadratic": Quadratic, "next attention": Linear})
    assert not (tmp_path / "tokens").exists()


class Unlabelled(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)}


def test_identical_objects_need_labels() -> None:
    with pytest.raises(ValueError, match="need a segmentation"):
        difference_rows("planted", Copies(), Unlabelled())
    assert collate([Unlabelled()[0]]).segmentation is None

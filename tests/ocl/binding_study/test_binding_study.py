"""The study against an encoder that plants objects in one place and noise in another, and against ViTs of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from ocl.binding.labels import patch_labels
from ocl.binding.pairs import sample_patches
from ocl.binding.pointwise import PointwiseClass
from ocl.binding.probes import Cosine, Linear, Quadratic
from ocl.binding_study.ablations import INTACT, SHUFFLE, Ablation
from ocl.binding_study.command import binding
from ocl.binding_study.maps import draw_maps, first_batch, patch_number, similarity_maps
from ocl.binding_study.models import AnyEncoder, OwnViT, Studied, TimmViT
from ocl.binding_study.patch_encoders import PatchEncoder
from ocl.binding_study.rows import BOTH, CLASS_ORACLE, COLOUR, HUMAN, POSITION, Row, value_of
from ocl.binding_study.settings import Fitting, Sampling, usual_probes
from ocl.binding_study.study import Study
from ocl.binding_study.table import table
from ocl.files import read_json
from ocl.objectives.masked_autoencoder import MaskedAutoencoder
from ocl.objectives.vit import TrainableViT
from ocl.representations import RandomCNN
from ocl.shapes import Batch

GRID, OBJECTS, WIDTH = (4, 6), 4, 8
PROBES = {"linear": Linear, "quadratic": Quadratic, "cosine": Cosine, "class": partial(PointwiseClass, names=3)}
SAMPLING = Sampling(patches=16, classes="class")
FITTING = Fitting(epochs=25, lr=0.05, batch=8, patience=None, held_out=0.25)


class Cells(Dataset[dict[str, Tensor]]):
    """Images of 4 x 6 cells of 8 pixels; each cell shows one of the objects 1 to 4 in a colour of its own.

    The first `single` images show object 1 only.
    """

    def __init__(self, size: int = 24, seed: int = 0, single: int = 0, shift: int = 0) -> None:
        self.size, self.seed, self.single, self.shift = size, seed, single, shift

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, index])
        cells = rng.integers(1, OBJECTS + 1, GRID)
        if index < self.single:
            cells[:] = 1
        colours = rng.integers(0, 256, (3, *GRID), dtype=np.uint8)
        segmentation = torch.from_numpy(cells.repeat(8, 0).repeat(8, 1))
        return {
            "images": torch.from_numpy(colours.repeat(8, 1).repeat(8, 2)),
            "segmentation": segmentation.roll(self.shift * 8, dims=1),
            "visible": torch.ones(OBJECTS, dtype=torch.bool),
            "class": torch.tensor([0, 0, 1, 2]),
        }


class PlantedTokens(PatchEncoder):
    """ "bound" holds which object a patch shows in rotated dimensions, "blank" the patch's colour only."""

    places, grid, dim = ("blank", "bound"), GRID, WIDTH

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("rotation", torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q)

    def encode(self, batch: Batch) -> Tensor:
        assert batch.segmentation is not None
        labels = patch_labels(batch.segmentation, GRID).labels
        code = torch.nn.functional.one_hot(labels, WIDTH).float() @ self.rotation
        colours = torch.nn.functional.adaptive_avg_pool2d(batch.images.float() / 255, GRID).flatten(2).mT
        blank = torch.zeros_like(code)
        blank[..., :3] = colours
        return torch.stack([blank, code])


class Planted(Studied):
    def trained(self) -> PatchEncoder:
        return PlantedTokens(0)

    def random(self, seed: int) -> PatchEncoder:
        return PlantedTokens(100 + seed)


def study(folder: Path, **changes: Any) -> Study:
    settings: dict[str, Any] = {
        "train": Cells(seed=1),
        "test": Cells(12, seed=2),
        "models": {"planted": Planted()},
        "sampling": SAMPLING,
        "fitting": FITTING,
        "probes": PROBES,
        "others": Cells(12, seed=2),
    }
    return Study(folder=folder, **{**settings, **changes})


def rows_of(folder: Path, **changes: Any) -> list[Row]:
    made = study(folder, **changes)
    return made.rows(made.subjects(made.encoders()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return rows_of(folder)


def value(rows: Sequence[Row], **wanted: str) -> float:
    row = value_of(rows, **wanted)
    assert row is not None, wanted
    return float(row["value"])


def test_there_is_one_row_for_every_layer_probe_and_measure(rows: list[Row]) -> None:
    keys = [(row["model"], row["probe"], row["place"], row["measure"]) for row in rows]
    assert len(set(keys)) == len(keys)
    measures = {row["measure"] for row in rows}
    assert len(measures) == 7
    for model in ("planted", "random (planted)"):
        probes = {*PROBES, "quadratic, permuted"} if model == "planted" else {*PROBES}
        mine = [key[1:] for key in keys if key[0] == model]
        assert set(mine) == {(p, place, m) for p in probes for place in PlantedTokens.places for m in measures}
        assert {(row["probe"], row["place"]) for row in rows if row["model"] == model and row["chosen"]} >= {
            ("quadratic", "bound"),
            ("cosine", "bound"),
        }


def test_probes_find_what_was_planted_and_nothing_else(rows: list[Row]) -> None:
    of = {"model": "planted", "measure": "auc"}
    assert value(rows, probe="quadratic", place="bound", **of) == 1
    assert value(rows, probe="cosine", place="bound", **of) == 1
    for probe, place in (("quadratic", "blank"), ("quadratic, permuted", "bound")):
        row = value_of(rows, probe=probe, place=place, **of)
        assert row is not None
        assert row["low"] < 0.55
        assert row["high"] > 0.45
    # objects 1 and 2 are of one class: what names classes cannot tell them apart
    assert value(rows, model="planted", probe="class", place="bound", measure="hard_accuracy") == 0
    assert value(rows, model="planted", probe="class", place="bound", measure="auc") > 0.8
    assert value(rows, model="planted", probe="quadratic", place="bound", measure="hard_auc") == 1


def test_every_control_stands_beside_the_probes(rows: list[Row]) -> None:
    different = np.mean([_share_of_different(row) for row in _drawn_objects()])
    control = {"model": "-", "place": "-"}
    assert value(rows, probe="all different", measure="accuracy", **control) == pytest.approx(different)
    assert value(rows, probe="all different", measure="auc", **control) == 0.5
    assert value(rows, probe=CLASS_ORACLE, measure="hard_accuracy", **control) == 0
    assert value(rows, probe=CLASS_ORACLE, measure="hard_auc", **control) == 0.5
    assert value(rows, probe=HUMAN, measure="accuracy", **control) == 1  # the second person drew the same
    for name in (POSITION, COLOUR, BOTH):  # cells are drawn without regard to place and colour
        row = value_of(rows, probe=name, measure="auc", **control)
        assert row is not None
        assert row["low"] < 0.55
        assert row["high"] > 0.45


def _drawn_objects() -> list[Tensor]:
    data = Cells(12, seed=2)
    labels = patch_labels(torch.stack([data[i]["segmentation"] for i in range(12)]), GRID).labels
    return list(labels.gather(1, sample_patches(labels, SAMPLING.patches, range(12), seed=0)))


def _share_of_different(objects: Tensor) -> float:
    pairs = [(int(a), int(b)) for i, a in enumerate(objects) for b in objects[:i]]
    return sum(a != b for a, b in pairs) / len(pairs)


def test_another_person_who_drew_something_else_is_a_ceiling_below_one(folder: Path) -> None:
    found = rows_of(folder, others=Cells(12, seed=2, shift=1))
    assert 0.4 < value(found, probe=HUMAN, measure="accuracy") < 0.9
    without = rows_of(folder, others=None)
    assert value_of(without, probe=HUMAN) is None


def test_the_table_shows_the_chosen_layer_of_every_line(rows: list[Row]) -> None:
    drawn = table(rows)
    probes = list(drawn.columns[1].cells)
    assert probes[:6] == ["all different", POSITION, COLOUR, BOTH, CLASS_ORACLE, HUMAN]
    assert len(probes) == 6 + len(PROBES) + 1 + len(PROBES)
    assert list(drawn.columns[2].cells)[probes.index("quadratic")] == "bound"


def test_what_is_finished_is_kept_and_what_is_missing_comes_back_the_same(folder: Path, rows: list[Row]) -> None:
    files = [path for kind in ("tokens", "fits") for path in (folder / kind).rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".safetensors" and "fits" in path.parts]) == 9
    lost = folder / "fits" / "planted" / "quadratic.safetensors"
    before, content = {path: path.stat().st_mtime_ns for path in files}, lost.read_bytes()
    lost.unlink()
    assert rows_of(folder) == rows
    assert [path for path in files if path.stat().st_mtime_ns != before[path]] == [lost]
    assert lost.read_bytes() == content


def test_other_settings_in_the_same_folder_are_refused(folder: Path, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match="fitted with other settings or tokens; name another folder"):
        rows_of(folder, fitting=replace(FITTING, lr=0.01))
    with pytest.raises(ValueError, match="differ"):
        rows_of(folder, train=Cells(seed=7))
    damaged = folder / "fits" / "planted" / "linear.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:50])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        rows_of(folder)
    damaged.write_bytes(content)


def test_images_with_one_object_are_left_out_of_what_they_leave_undefined(tmp_path: Path) -> None:
    found = rows_of(tmp_path, test=Cells(12, seed=2, single=5), others=None)
    row = value_of(found, model="planted", probe="quadratic", place="bound", measure="auc")
    assert row is not None
    assert (row["images"], row["dropped"]) == (7, 5)
    row = value_of(found, model="planted", probe="quadratic", place="bound", measure="accuracy")
    assert row is not None
    assert (row["images"], row["dropped"]) == (12, 0)
    with pytest.raises(ValueError, match="needs pairs of one object and of two"):
        rows_of(tmp_path / "only", train=Cells(seed=1, single=24))


def test_maps_show_the_object_of_the_query_patch(folder: Path, tmp_path: Path, rows: list[Row]) -> None:
    made = study(folder)
    (subject, _) = made.subjects(made.encoders())
    batch = first_batch(made.test, 3)
    queries = torch.tensor([3, 9, 23])
    maps = similarity_maps(subject.encoder, subject.probes["quadratic"].probe, batch, queries)
    assert maps.shape == (2, 3, *GRID)
    labels = patch_labels(batch.segmentation, GRID).labels  # type: ignore[arg-type]
    same = labels == labels.gather(1, queries[:, None])
    bound = maps[1].flatten(1)
    assert (bound[same].min() > bound[~same].max()).item()
    assert patch_number((2, 3), GRID) == 15
    with pytest.raises(ValueError, match=r"on a grid of 4 x 6 from 0, got \(4, 0\)"):
        patch_number((4, 0), GRID)
    known = torch.ones(3, *GRID, dtype=torch.bool)
    known[0, 0, 0] = False
    path = draw_maps(batch, queries, maps, known, subject.encoder.places, 1, tmp_path / "maps.png")
    with Image.open(path) as picture:
        assert picture.size == (8 + 3 * (144 + 8), 24 + 3 * (96 + 8))
        assert picture.getpixel((8 + 144 + 8 + 2, 24 + 2)) == (140, 140, 140)  # the first patch of the first map


# ViTs

ARGUMENTS = {"patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}
START = {"name": "vit_tiny_patch16_224", "image_size": [32, 48], "arguments": ARGUMENTS}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MaskedAutoencoder]:
    """What `ocl fit` leaves behind of a masked autoencoder."""
    place = tmp_path_factory.mktemp("run")
    torch.manual_seed(5)
    objective = MaskedAutoencoder(TrainableViT("vit_tiny_patch16_224", (32, 48), ARGUMENTS), decoder_dim=24)
    for parameter in objective.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    node = {
        "class_path": "ocl.objectives.masked_autoencoder.MaskedAutoencoder",
        "init_args": {"vit": {"class_path": "ocl.objectives.vit.TrainableViT", "init_args": START}, "decoder_dim": 24},
    }
    (place / "config.yaml").write_text(yaml.safe_dump({"model": {"objective": node}}))
    save_file(objective.vit.vit.state_dict(), place / "vit.safetensors")
    (place / "checkpoints").mkdir()
    state = {f"objective.{name}": values for name, values in objective.state_dict().items()}
    torch.save({"state_dict": state}, place / "checkpoints" / "last.ckpt")
    return place, objective.eval()


def test_a_vit_of_our_own_comes_back_with_its_start_and_its_objective(
    run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    place, objective = run
    model, images = OwnViT(place), torch.rand(2, 3, 32, 48)
    encoder = model.trained()
    assert encoder.places == ("block 0", "block 1", "block 2")
    prefix, patches = objective.vit.embed(images)
    first = objective.vit.vit.blocks[0](torch.cat([prefix, patches], 1))[:, 1:]
    torch.testing.assert_close(encoder(Batch(images))[0], first)
    twin = model.random(seed=3)
    torch.manual_seed(3)
    start = TrainableViT("vit_tiny_patch16_224", (32, 48), ARGUMENTS)
    first = start.vit.blocks[0](torch.cat(start.embed(images), 1))[:, 1:]
    torch.testing.assert_close(twin(Batch(images))[0], first)
    again = model.objective()
    assert again is not None
    losses = []
    for one in (objective, again):
        torch.manual_seed(0)
        losses.append(one(Batch(images))["loss"].item())
    assert losses[0] == losses[1]
    larger = OwnViT(place, (64, 96))
    assert larger.random(0).grid == larger.trained().grid == (8, 12)
    assert larger.objective() is None
    (tmp_path / "config.yaml").write_bytes((place / "config.yaml").read_bytes())
    (tmp_path / "vit.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not hold the ViT"):
        OwnViT(tmp_path).trained()


def test_two_models_that_start_alike_share_their_random_twin(
    run: tuple[Path, MaskedAutoencoder], tmp_path: Path
) -> None:
    models = {"one": OwnViT(run[0]), "two": OwnViT(run[0])}
    assert list(study(tmp_path, models=models).encoders()) == ["one", "two", "random (one, two)"]


def test_the_command_leaves_everything_behind_and_ablates(
    run: tuple[Path, MaskedAutoencoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binding(
        Cells(seed=1),
        Cells(12, seed=2),
        tmp_path,
        {"mae": OwnViT(run[0])},
        probes=PROBES,
        sampling=SAMPLING,
        fitting=replace(FITTING, epochs=2),
        patch=(1, 1),
        pictures=2,
        ablation=Ablation(rank=4, ratios=(0.0, 1.0), amounts=(1.0,), draws=2, images=12),
    )
    assert "all different" in capsys.readouterr().out
    rows = read_json(tmp_path / "results.json")
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["-", "mae", "random (mae)"]
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture).std() > 0
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"mae.png", "random-mae.png"}
    assert read_json(tmp_path / "manifest.json")["config"]["reference"] == "quadratic"
    changes = {(row["change"], row["amount"], row["measure"]): row for row in read_json(tmp_path / "ablation.json")}
    measures = {"objective loss", "same-object AUC", "same-object accuracy", "class accuracy"}
    assert {key[2] for key in changes} == measures
    for measure in measures:  # a ratio of 0 and an amount of 1 change nothing, a ratio of 1 does
        intact = changes[INTACT, 0.0, measure]["value"]
        assert changes[SHUFFLE, 0.0, measure]["value"] == pytest.approx(intact, rel=1e-5)
        if measure != "objective loss":
            assert changes["inject object mean", 1.0, measure]["value"] == pytest.approx(intact, rel=1e-5)
    intact = changes[INTACT, 0.0, "same-object AUC"]["value"]  # on the patches of the table
    assert value(rows, model="mae", probe="quadratic", place="block 2", measure="auc") == pytest.approx(
        intact, abs=1e-3
    )
    assert changes[SHUFFLE, 1.0, "objective loss"]["value"] != changes[INTACT, 0.0, "objective loss"]["value"]
    assert all(math.isfinite(row["value"]) for row in changes.values())


def test_any_object_encoder_is_read_beside_a_random_vit_on_its_grid(tmp_path: Path) -> None:
    model = AnyEncoder(RandomCNN((32, 48)), GRID)
    found = rows_of(tmp_path, models={"cnn": model}, fitting=replace(FITTING, epochs=1), others=None)
    assert {row["place"] for row in found if row["model"] == "cnn"} == {"slots"}
    assert len({row["place"] for row in found if row["model"] == "random (cnn)"}) == 12


def vit(image_size: tuple[int, int] = (32, 48), **arguments: Any) -> TimmViT:
    return TimmViT("vit_tiny_patch16_224", image_size, pretrained=False, arguments={**ARGUMENTS, **arguments})


def command(folder: Path, train: Dataset[dict[str, Tensor]], **arguments: Any) -> None:
    settings = {"models": {"vit": vit()}, "sampling": SAMPLING, "fitting": FITTING, **arguments}
    binding(train, Cells(12, seed=2), folder, **settings)


def test_any_timm_vit_is_studied_by_its_name_with_weights_from_a_file(tmp_path: Path) -> None:
    published = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    save_file(published.state_dict(), tmp_path / "weights.safetensors")
    name = "vit_tiny_patch16_224"
    command(
        tmp_path / "study",
        Cells(8, seed=1),
        models=None,
        model=name,
        weights=tmp_path / "weights.safetensors",
        image_size=(64, 96),
        fitting=replace(FITTING, epochs=1),
        pictures=0,
    )
    rows = read_json(tmp_path / "study" / "results.json")
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["-", name, f"random ({name})"]
    assert len({row["place"] for row in rows if row["model"] == name}) == 12
    assert {row["probe"] for row in rows if row["model"] == f"random ({name})"} == {*usual_probes(3)}


class Changed(Cells):
    """Images or masks of another size: a window from the top left corner."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(seed=1)
        self.name, self.window = name, size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = super().__getitem__(index)
        names = ("images", "segmentation") if self.name == "both" else (self.name,)
        return item | {name: item[name][..., : self.window, : self.window] for name in names}


def test_masks_of_another_size_than_the_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="they must be of one size"):
        command(tmp_path, Changed("segmentation", 16))


def test_images_smaller_than_a_patch_are_resized_and_a_grid_without_patches_is_refused(tmp_path: Path) -> None:
    made = study(tmp_path, models={"vit": vit()}, train=Changed("both", 5), others=None)
    store = made.subjects(made.encoders())[0].train
    assert np.isfinite(store.read_all(["tokens"])["tokens"]).all()
    with pytest.raises(ValueError, match="multiples of the patch size 8 x 8"):
        command(tmp_path / "small", Cells(seed=1), models={"vit": vit((4, 4))})


def test_what_cannot_be_studied_is_refused_in_one_sentence(
    tmp_path: Path, run: tuple[Path, MaskedAutoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="not a vision transformer"):
        command(tmp_path, Cells(), models=None, model="resnet18", weights=run[0] / "vit.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="not in the local cache"):
        command(tmp_path, Cells(), model="vit_tiny_patch16_224")
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist; train the ViT first"):
        OwnViT(tmp_path / "nowhere")
    (tmp_path / "config.yaml").write_text("model: {model: {}}")
    with pytest.raises(ValueError, match="is no run of a ViT"):
        OwnViT(tmp_path)
    with pytest.raises(ValueError, match="must have one grid"):
        command(tmp_path, Cells(), models={"a": vit(), "b": vit((64, 96))})
    with pytest.raises(ValueError, match="give `models` to study"):
        command(tmp_path, Cells(), models=None)
    with pytest.raises(ValueError, match="only blocks of a ViT can be ablated"):
        command(tmp_path, Cells(), models={"cnn": AnyEncoder(RandomCNN((32, 48)), GRID)}, ablation=Ablation())
    with pytest.raises(ValueError, match="held_out is a share"):
        Fitting(held_out=1.0)
    with pytest.raises(ValueError, match="reference probe must be one of linear"):
        rows_of(tmp_path / "reference", reference="cubic")

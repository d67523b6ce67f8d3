"""Masks of folders: what is on disk agrees with the masks, odd images are read, broken ones reported, runs resumed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import ocl.cli
from ocl.data.images import ImageFolder
from ocl.data.mask_files import CocoSegmentations, LabelMapFolder
from ocl.data.sprite_scenes import SpriteScenes
from ocl.describe import describe_dataset
from ocl.files import read_json
from ocl.masks.base import Masks
from ocl.masks.coco import CocoFile
from ocl.masks.files import read_label_map
from ocl.masks.label_maps import paint
from ocl.masks.sources import Grid, TrueMasks
from ocl.segment import read_pixels, segment, table
from ocl.shapes import Batch


class Overlapping:
    """Three rectangles, the second on top of the others; the calls are counted."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, batch: Batch) -> Masks:
        self._calls += 1
        masks = torch.zeros(len(batch), 4, *batch.images.shape[-2:], dtype=torch.bool)
        masks[:, 0, :20], masks[:, 1, 10:30, 10:30], masks[:, 2, :, 5:15] = True, True, True
        return Masks.of(masks, torch.tensor([[0.5, 0.9, 0.7, 0.1]]).expand(len(batch), -1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    Image.fromarray(pixels[..., :3]).save(images / "deep" / "colour.jpg")
    Image.fromarray(pixels[..., :3]).save(images / "deep" / "colour.png")
    Image.fromarray(pixels[..., 0]).save(images / "grey.png")
    Image.fromarray(pixels).save(images / "transparent.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(images / "sixteen.png")
    whole = (images / "deep" / "colour.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").write_bytes(b"")
    (images / "notes.txt").write_text("no image")
    return images


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    source, results = Overlapping(), tmp_path / "results"
    rows = segment(source, folder, results, progress=False)
    names = ["deep/colour.jpg", "deep/colour.png", "grey.png", "sixteen.png", "transparent.png"]
    found = {row["file"]: row for row in rows}
    assert [row["file"] for row in rows] == sorted([*names, "cut.jpg", "empty.png"], key=lambda name: Path(name).parts)
    assert all("is not a readable image" in found[name]["error"] for name in ("cut.jpg", "empty.png"))
    assert all((found[name]["masks"], found[name]["error"]) == (3, None) for name in names)
    assert read_json(results / "results.json") == rows
    masks = source(Batch(torch.zeros(1, 3, 40, 50)))
    labels = paint(masks)[0]
    file = CocoFile(results / "coco.json")
    assert sorted(file.names) == sorted(names)
    for name in names:
        assert torch.equal(read_label_map(results / "labels" / f"{name}.png"), labels)
        assert torch.equal(file.masks(name).masks, masks.masks[:, :3])
        assert torch.allclose(file.masks(name).scores, masks.scores[:, :3])
        picture = read_pixels(results / "overlays" / f"{name}.png")
        assert picture.shape == (3, 40, 50)
        original = read_pixels(folder / name)
        assert torch.equal(picture[:, labels == 0], original[:, labels == 0])
        assert not torch.equal(picture[:, labels == 2], original[:, labels == 2])
        assert found[name]["covered"] == pytest.approx(float((labels > 0).float().mean()))
    assert read_json(results / "manifest.json")["config"]["source"]["class"].endswith("Overlapping")


def test_a_second_run_goes_on_where_the_first_one_stopped(folder: Path, tmp_path: Path) -> None:
    source, results = Overlapping(), tmp_path / "results"
    segment(source, folder, results, progress=False)
    before = (results / "coco.json").read_bytes()
    (results / "instances" / "grey.png.json").write_text('{"annot')  # a machine that died
    (results / "coco.json").unlink()
    Image.new("RGB", (50, 40)).save(folder / "empty.png")
    rows = segment(source, folder, results, progress=False)
    assert source._calls == 5 + 2
    again = {row["file"] for row in rows if not row["resumed"]}
    assert again == {"grey.png", "cut.jpg", "empty.png"}
    (folder / "empty.png").write_bytes(b"")
    (results / "instances" / "empty.png.json").unlink()
    segment(source, folder, results, progress=False)
    assert (results / "coco.json").read_bytes() == before
    with pytest.raises(ValueError, match="holds masks of another source"):
        segment(Grid(2, 2), folder, results, progress=False)


def test_results_among_the_images_are_not_images(folder: Path) -> None:
    first = segment(Grid(2, 2), folder, folder / "results", progress=False)
    second = segment(Grid(2, 2), folder, folder / "results", progress=False)
    assert [row["file"] for row in first] == [row["file"] for row in second]


def test_one_image_and_a_data_set(folder: Path, tmp_path: Path) -> None:
    (row,) = segment(Grid(2, 2), folder / "grey.png", tmp_path / "one", progress=False)
    assert (row["file"], row["masks"]) == ("grey.png", 4)
    scenes = SpriteScenes(3, seed=1)
    rows = segment(TrueMasks(), scenes, tmp_path / "scenes", progress=False)
    assert [row["file"] for row in rows] == ["000000", "000001", "000002"]
    for index, row in enumerate(rows):
        labels = read_label_map(tmp_path / "scenes" / "labels" / f"{row['file']}.png")
        truth = scenes[index]["segmentation"].long()
        assert torch.equal(labels > 0, truth > 0)
        assert row["masks"] == len(truth[truth > 0].unique())


def test_an_image_that_a_source_refuses_is_reported(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(folder / "tiny.png")
    found = {row["file"]: row["error"] for row in segment(Grid(4, 4), folder, tmp_path / "out", progress=False)}
    assert "needs as many pixels" in found["tiny.png"]
    assert found["grey.png"] is None


def test_no_mask_at_all_is_a_result(folder: Path, tmp_path: Path) -> None:
    def nothing(batch: Batch) -> Masks:
        return Masks.of(torch.zeros(len(batch), 0, *batch.images.shape[-2:], dtype=torch.bool))

    (row,) = segment(nothing, folder / "grey.png", tmp_path / "out", progress=False)
    assert (row["masks"], row["covered"]) == (0, 0)
    assert torch.equal(read_pixels(tmp_path / "out" / "overlays" / "grey.png.png"), read_pixels(folder / "grey.png"))


def test_pixels_of_odd_files(folder: Path, tmp_path: Path) -> None:
    grey = read_pixels(folder / "grey.png")
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(read_pixels(folder / "sixteen.png"), grey)
    file = np.asarray(Image.open(folder / "transparent.png")).astype(float)
    colour, alpha = file[..., :3], file[..., 3:] / 255
    expected = (colour * alpha + 255 * (1 - alpha)).transpose(2, 0, 1)
    assert np.abs(read_pixels(folder / "transparent.png").numpy() - expected).max() <= 1
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "floating.tif")
    with pytest.raises(ValueError, match="floating"):
        read_pixels(tmp_path / "floating.tif")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither an image nor a folder"):
        segment(Grid(1, 1), tmp_path / "absent", tmp_path / "out", progress=False)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        segment(Grid(1, 1), tmp_path / "none", tmp_path / "out", progress=False)


def test_results_are_read_back_as_segmentations_of_the_images(folder: Path, tmp_path: Path) -> None:
    for name in ("cut.jpg", "empty.png"):
        (folder / name).unlink()
    segment(Grid(2, 5), folder, tmp_path / "out", progress=False)
    label_maps = ImageFolder(folder, 40, LabelMapFolder(tmp_path / "out" / "labels", folder))
    instances = ImageFolder(folder, 40, CocoSegmentations(tmp_path / "out" / "coco.json", folder))
    assert len(label_maps) == 5
    for first, second in zip((label_maps[i] for i in range(5)), (instances[i] for i in range(5)), strict=True):
        assert torch.equal(first["segmentation"], second["segmentation"])
        assert first["segmentation"].unique().tolist() == list(range(1, 11))
    (tmp_path / "out" / "labels" / "grey.png.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no label map .*grey\.png\.png"):
        label_maps[2]


def test_packaged_slots_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = ["--images=ocl.data.sprite_scenes.SpriteScenes", "--images.init_args.size=2"]
    rows = ocl.cli.main(["masks", "--source=sprites", *scenes, f"--folder={tmp_path / 'out'}"])
    assert "segmented now" in capsys.readouterr().out
    assert all(row["error"] is None and row["covered"] == 1 for row in rows)
    truth = SpriteScenes(2)[0]["segmentation"]
    labels = read_label_map(tmp_path / "out" / "labels" / "000000.png")
    for label in range(1, int(truth.max()) + 1):
        segment_ = labels[truth == label].mode().values
        overlap = ((labels == segment_) & (truth == label)).sum() / ((labels == segment_) | (truth == label)).sum()
        assert overlap > 0.4, "slots are not at the objects"


def test_another_image_of_the_same_name_is_segmented_anew(folder: Path, tmp_path: Path) -> None:
    source, results = Overlapping(), tmp_path / "results"
    segment(source, folder, results, progress=False)
    grey = folder / "grey.png"
    before = grey.read_bytes()
    Image.fromarray(255 - np.asarray(Image.open(grey))).save(grey)
    (results / "overlays" / "sixteen.png.png").unlink()
    again = {row["file"] for row in segment(source, folder, results, progress=False) if not row["resumed"]}
    assert again == {"grey.png", "sixteen.png", "cut.jpg", "empty.png"}
    overlay = read_pixels(results / "overlays" / "grey.png.png")
    nothing = ~source(Batch(torch.zeros(1, 3, 40, 50))).masks[0].any(0)
    assert torch.equal(overlay[:, nothing], read_pixels(grey)[:, nothing])
    grey.write_bytes(before)
    again = {row["file"] for row in segment(source, folder, results, progress=False) if not row["resumed"]}
    assert again == {"grey.png", "cut.jpg", "empty.png"}


def test_another_data_set_is_not_taken_for_the_first(tmp_path: Path) -> None:
    for seed in (1, 2):
        rows = segment(TrueMasks(), SpriteScenes(2, seed=seed), tmp_path, progress=False)
        assert not any(row["resumed"] for row in rows)
        labels = read_label_map(tmp_path / "labels" / "000001.png")
        assert torch.equal(labels > 0, SpriteScenes(2, seed=seed)[1]["segmentation"] > 0)
    assert all(row["resumed"] for row in segment(TrueMasks(), SpriteScenes(2, seed=2), tmp_path, progress=False))


def test_a_source_that_refuses_every_image_is_an_error_and_can_be_corrected(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Grid refused every image .* deep/colour\.jpg: .*needs as many pixels"):
        segment(Grid(41, 2), folder, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"TrueMasks refused .*gives none"):
        segment(TrueMasks(), folder, tmp_path, progress=False)
    assert sum(row["error"] is None for row in segment(Grid(2, 2), folder, tmp_path, progress=False)) == 5


def test_masks_of_another_size_and_scores_without_bounds_are_refused(folder: Path, tmp_path: Path) -> None:
    def small(batch: Batch) -> Masks:
        return Masks.of(torch.ones(len(batch), 2, 4, 5, dtype=torch.bool))

    def sure(batch: Batch) -> Masks:
        whole = torch.ones(len(batch), 1, *batch.images.shape[-2:], dtype=torch.bool)
        return Masks.of(whole, torch.full((len(batch), 1), torch.inf))

    with pytest.raises(ValueError, match=r"must give masks \(1, K, 40, 50\)"):
        segment(small, folder / "grey.png", tmp_path / "small", progress=False)
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        segment(sure, folder / "grey.png", tmp_path / "sure", progress=False)


class Floats(Dataset[dict[str, Tensor]]):
    """One white image and one that is not finite, in [0, 1]."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": torch.full((3, 8, 9), [1.0, torch.nan][index])}


def test_floating_images_keep_their_brightness_and_nan_is_reported(tmp_path: Path) -> None:
    def corner(batch: Batch) -> Masks:
        return Masks.of((torch.arange(72) == 0).view(1, 1, 8, 9))

    first, second = segment(corner, Floats(), tmp_path, progress=False)
    assert first["error"] is None
    assert (read_pixels(tmp_path / "overlays" / "000000.png")[:, 1:] == 255).all()
    assert "000001 holds NaN" in second["error"]


def test_results_may_lie_among_the_images(folder: Path) -> None:
    (folder / "folder.png").mkdir()
    first = segment(Grid(2, 2), folder, folder, progress=False)
    assert len(first) == 7
    again = segment(Grid(2, 2), folder, folder, progress=False)
    assert [row["file"] for row in again] == [row["file"] for row in first]
    assert all(row["resumed"] for row in again if row["error"] is None)


def test_label_maps_and_coco_files_can_be_told_apart(folder: Path, tmp_path: Path) -> None:
    for name in ("cut.jpg", "empty.png"):
        (folder / name).unlink()
    described = []
    for columns in (2, 5):
        out = tmp_path / str(columns)
        segment(Grid(2, columns), folder, out, progress=False)
        maps = LabelMapFolder(out / "labels", folder), CocoSegmentations(out / "coco.json", folder)
        described += [describe_dataset(ImageFolder(folder, 40, part)) for part in maps]
    assert all(a != b for a, b in itertools.combinations(described, 2))


def test_every_error_in_the_table_names_its_image() -> None:
    errors = {"a.png": "2 x 2 cells need as many pixels.", "b/c.png": "images/b/c.png is not a readable image."}
    rows = [
        {"file": file, "masks": None, "covered": None, "error": error, "resumed": False}
        for file, error in errors.items()
    ]
    shown = list(table(rows).columns[0].cells)
    assert shown[-2:] == ["  a.png: 2 x 2 cells need as many pixels.", "  images/b/c.png is not a readable image."]

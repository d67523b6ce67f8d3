"""`ocl prepare` on files in published layouts: resumed, compared with checksums, and safe against hostile archives."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from ocl.archives import digests_of, unpack
from ocl.cli import main
from ocl.files import read_json
from ocl.prepare import prepare, read_recipe
from tests import small_sets

ROOT = Path(__file__).resolve().parents[2]
WITH_FILES = sorted(path.parent.name for path in ROOT.glob("datasets/*/recipe.yaml") if "\nfetch:" in path.read_text())


def packed(folder: Path, archive: Path, top: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in files:
                file.write(path, Path(top) / path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz" if "gz" in archive.suffix else "w") as file:
            for path in files:
                file.add(path, Path(top) / path.relative_to(folder))
    return archive


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A folder with the two archives of PASCAL VOC and SBD, and a recipe that knows one checksum."""
    small_sets.voc(tmp_path / "made" / "VOC2012", tmp_path / "made" / "sbd")
    data = tmp_path / "datasets" / "voc" / "data"
    own = packed(tmp_path / "made" / "VOC2012", data / "voc.tar", "VOCdevkit/VOC2012")
    packed(tmp_path / "made" / "sbd", data / "sbd.tgz", "benchmark_RELEASE/dataset")
    recipe = {
        "name": "voc",
        "class_path": "ocl.data.pascal_voc.PascalVOC",
        "fetch": [
            {"to": "voc.tar", "url": "https://voc", "unpack": ".", "md5": hashlib.md5(own.read_bytes()).hexdigest()},
            {"to": "sbd.tgz", "url": "https://sbd", "unpack": "sbd", "below": "benchmark_RELEASE/dataset"},
        ],
        "arguments": {"folder": "{data}/VOCdevkit/VOC2012"},
        "splits": {"val": {"split": "val"}, "trainaug": {"split": "trainaug", "sbd": "{data}/sbd"}},
    }
    (tmp_path / "datasets" / "voc" / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return data


def test_archives_become_splits_that_can_be_read(voc, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rows = main(["prepare", "voc"])
    assert [row["state"] for row in rows] == ["unpacked", "unpacked", "readable", "readable"]
    assert [row["note"] for row in rows[2:]] == ["2 items", "4 items"]
    assert "trainaug" in capsys.readouterr().out
    written = {path: path.stat().st_mtime_ns for path in voc.rglob("*") if path.is_file()}
    state = read_json(voc / "prepared.json")
    assert state["files"]["sbd.tgz"]["sha256"] == digests_of(voc / "sbd.tgz").sha256
    assert prepare("voc") == rows, "all is done"
    assert written == {path: path.stat().st_mtime_ns for path in voc.rglob("*") if path.is_file()}
    for name in ("voc.tar", "sbd.tgz"):  # archives may go once they are unpacked
        (voc / name).unlink()
    assert prepare("voc") == rows


def test_what_is_missing_is_named_with_its_place(voc, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    (voc / "sbd.tgz").rename(tmp_path / "sbd.tgz")
    with pytest.raises(FileNotFoundError, match=r"voc is not whole: split trainaug cannot be read; fetch"):
        prepare("voc", recipes=tmp_path / "datasets")
    assert f"fetch https://sbd to {voc / 'sbd.tgz'}" in capsys.readouterr().out
    unpack(tmp_path / "sbd.tgz", voc / "sbd", "benchmark_RELEASE/dataset")  # by hand, elsewhere
    by_hand = prepare("voc", recipes=tmp_path / "datasets")
    assert [by_hand[1][key] for key in ("what", "state", "note")] == [
        "sbd.tgz",
        "missing",
        "not needed: all splits can be read",
    ]
    (tmp_path / "sbd.tgz").rename(voc / "sbd.tgz")
    assert prepare("voc", recipes=tmp_path / "datasets")[-1]["note"] == "4 items"


def test_changed_files_are_refused(voc, tmp_path):
    recipes = tmp_path / "datasets"
    prepare("voc", recipes=recipes)
    for name, message in (("sbd.tgz", "is not the file that was verified before"), ("voc.tar", "published is")):
        whole, status = (voc / name).read_bytes(), (voc / name).stat()
        (voc / name).write_bytes(whole + b"\0")
        with pytest.raises(ValueError, match=message):
            prepare("voc", recipes=recipes)
        (voc / name).write_bytes(whole)
        os.utime(voc / name, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # touched, but the same
        prepare("voc", recipes=recipes)
    (voc / "prepared.json").unlink()
    recipe = yaml.safe_load((recipes / "voc" / "recipe.yaml").read_text())
    recipe["fetch"][1]["bytes"] = 7
    (recipes / "voc" / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(ValueError, match=r"sbd\.tgz has \d+ bytes, published are 7"):
        prepare("voc", recipes=recipes)


def test_records_are_compared_with_their_own_checksums(tmp_path):
    data = tmp_path / "movi" / "data"
    small_sets.movi(data / "movi_c")
    recipe = {
        "class_path": "ocl.data.movi.MOVi",
        "fetch": [{"to": "movi_c/", "url": "gs://movi", "records": "plain"}],
        "arguments": {"folder": "{data}/movi_c", "frames": 4},
        "splits": {"train": {"split": "train"}},
    }
    (tmp_path / "movi" / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert [row["state"] for row in prepare("movi", recipes=tmp_path)] == ["verified", "readable"]
    path = data / "movi_c" / "movi_c-train.tfrecord-00001-of-00002"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1  # in the depth, which no reader looks at
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was verified before"):
        prepare("movi", recipes=tmp_path)
    (data / "prepared.json").unlink()
    with pytest.raises(ValueError, match=r"Record 1 of .*00001-of-00002 is not what its checksum says"):
        prepare("movi", recipes=tmp_path)


def test_the_published_recipes_read_the_published_layouts(tmp_path):
    """With archives of small sets in the place of large ones, and so without the published checksums."""
    made, recipes = tmp_path / "made", tmp_path / "datasets"
    shutil.copytree(ROOT / "datasets", recipes, ignore=shutil.ignore_patterns("data"))
    small_sets.coco(made / "coco")
    small_sets.voc(made / "voc" / "VOCdevkit" / "VOC2012", made / "sbd" / "benchmark_RELEASE" / "dataset")
    data = {name: recipes / name / "data" for name in ("coco", "pascal_voc", "movi")}
    packed(made / "coco" / "annotations", data["coco"] / "annotations_trainval2017.zip", "annotations")
    for split in ("train2017", "val2017"):
        packed(made / "coco" / split, data["coco"] / f"{split}.zip", split)
    packed(made / "voc", data["pascal_voc"] / "VOCtrainval_11-May-2012.tar")
    packed(made / "sbd", data["pascal_voc"] / "benchmark.tgz")
    for name in ("movi_c", "movi_e"):
        small_sets.movi(data["movi"] / name / "128x128" / "1.0.0", name, frames=24)
    with pytest.raises(ValueError, match="published is 6cd6e144f989b92b3379bac3b3de84fd"):
        prepare("pascal_voc", recipes=recipes)
    recipe = recipes / "pascal_voc" / "recipe.yaml"
    recipe.write_text("".join(line for line in recipe.read_text().splitlines(True) if "md5" not in line))
    for name, splits in (("coco", 2), ("pascal_voc", 3), ("movi", 4)):
        rows = prepare(name, recipes=recipes)
        assert [row["state"] for row in rows].count("readable") == splits


@pytest.mark.parametrize("name", WITH_FILES)
def test_every_recipe_says_what_to_fetch(tmp_path, name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    recipe = read_recipe(ROOT / "datasets", name)
    with pytest.raises(FileNotFoundError, match=f"{name} is not whole: "):
        prepare(name, tmp_path, ROOT / "datasets")
    shown = capsys.readouterr().out
    for one in recipe["fetch"]:
        assert one["to"] in shown
        assert one.get("url", "") in shown
    assert not list(tmp_path.iterdir())
    assert f"ocl prepare {name}" in (ROOT / "datasets" / name / "README.md").read_text()


def test_sets_without_a_recipe_or_without_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no recipe .*recipe\.yaml; .* has none; run this where the repository is"
    ):
        prepare("coco", recipes=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"datasets has ade20k, bsds500"):
        prepare("cocoo", recipes=ROOT / "datasets")
    with pytest.raises(ValueError, match="recipe of tetrominoes names no files"):
        prepare("tetrominoes", recipes=ROOT / "datasets")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tgz"])
def test_unpacking_goes_on_where_it_stopped(tmp_path, suffix):
    contents = {f"a/b/{number}.bin": np.random.default_rng(number).bytes(1000 * number) for number in range(5)}
    for name, content in contents.items():
        path = tmp_path / "made" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    archive = packed(tmp_path / "made", tmp_path / f"x{suffix}", "top")
    out = tmp_path / "out"
    assert unpack(archive, out, "top/a") == 5
    (out / "b" / "3.bin").unlink()
    (out / "b" / "4.bin").write_bytes(b"cut")
    (out / "b" / ".tmp-0-4.bin").write_bytes(b"of a killed run")
    kept = (out / "b" / "2.bin").stat().st_mtime_ns
    assert unpack(archive, out, "top/a") == 5
    assert not list(out.rglob(".tmp-*"))
    assert {f"a/{path.relative_to(out).as_posix()}": path.read_bytes() for path in out.rglob("*.bin")} == contents
    assert (out / "b" / "2.bin").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="holds no file below elsewhere"):
        unpack(archive, out, "elsewhere")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"no whole archive|neither a zip nor a tar"):
        unpack(archive, tmp_path / "other")
    assert not list((tmp_path / "other").rglob(".tmp-*"))


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/tmp/evil", "a\\..\\evil"])
def test_archives_cannot_reach_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("good", "1")
        file.writestr(name, "2")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"2"))
    for archive in ("x.zip", "x.tar"):
        with pytest.raises(ValueError, match="leads out of its folder"):
            unpack(tmp_path / archive, tmp_path / "in" / "out")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"x.zip", "x.tar", "good"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_archives_may_hold_regular_files_alone(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match="link, which is no regular file"):
        unpack(tmp_path / "x.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""Every recipe in datasets/ names a class that gives what its card says."""

import importlib
import os
from pathlib import Path

import pytest
import torch
import yaml

from ocl.data.bsds500 import BSDS500
from ocl.data.scenes import Scenes

ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("OCL_TEST_DATA", ROOT.parent / "shared" / "data")) / "BSDS500"
RECIPES = {path.parent.name: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("datasets/*/recipe.yaml"))}


def named(class_path):
    module, name = class_path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def test_every_data_set_has_card_and_recipe():
    folders = {path.name for path in (ROOT / "datasets").iterdir() if path.is_dir()}
    assert folders == set(RECIPES) >= {"tetrominoes", "multi_dsprites", "sprite_scenes", "bsds500"}
    index = (ROOT / "datasets" / "README.md").read_text()
    for name in folders:
        assert RECIPES[name]["name"] == name
        assert f"[{name}]({name}/README.md)" in index
        assert RECIPES[name]["class_path"].rsplit(".", 1)[1] in (ROOT / "datasets" / name / "README.md").read_text()
    assert not list((ROOT / "datasets").rglob("__init__.py"))


@pytest.mark.parametrize("name", [name for name in RECIPES if issubclass(named(RECIPES[name]["class_path"]), Scenes)])
def test_drawn_splits_are_disjoint(name):
    recipe = RECIPES[name]
    variants = [recipe["class_path"], *recipe.get("variants", {}).values()]
    extras = [{}, *recipe.get("shifts", {}).values()]
    for class_path in variants:
        for extra in extras:
            splits = {
                split: named(class_path)(**{**arguments, **extra}) for split, arguments in recipe["splits"].items()
            }
            assert {split: len(scenes) for split, scenes in splits.items()} == {
                split: arguments["size"] for split, arguments in recipe["splits"].items()
            }
            images = torch.stack([scenes[i]["images"] for scenes in splits.values() for i in range(8)])
            assert len(images.flatten(1).unique(dim=0)) == len(images)


@pytest.mark.skipif(not DATA.is_dir(), reason="BSDS500 is not there; set OCL_TEST_DATA to its parent folder")
def test_bsds500_is_the_one_of_the_recipe():
    for split, digest in RECIPES["bsds500"]["files_sha256"].items():
        assert BSDS500(DATA, **RECIPES["bsds500"]["splits"][split]).files_sha256 == digest

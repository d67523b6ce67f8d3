"""The command line from config to table, and configs that may not be built."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ocl.files import read_json
from rl_probes.cli import main
from rl_probes.runs import read_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "rl").glob("object_*_oracle.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_train_and_evaluate_from_a_config(tmp_path, config, capsys):
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path / f"seed_{seed}")
        options = ["--total_steps", "2048", "--seed", str(seed), "--folder", str(folders[-1])]
        main(["ppo", "--config", str(config), *options])
    results = main(["evaluate", "--runs", str([str(folder) for folder in folders]), "--episodes", "20"])
    assert [result.name for result in results] == ["random", "OracleObjects", "OracleObjects"]
    assert [result.seed for result in results[1:]] == [0, 1]
    assert "(!)" in capsys.readouterr().out  # two seeds
    saved = read_json(folders[1] / "evaluation.json")
    np.testing.assert_array_equal(saved["success"], results[2].episodes.success)
    assert saved["rows"][0]["seed"] == 1
    assert yaml.safe_load((folders[1] / "config.yaml").read_text())["seed"] == 1


def write(folder: Path, **changes: object) -> Path:
    content = yaml.safe_load(CONFIGS[0].read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_run_is_built_from_its_config(tmp_path):
    run = read_run(write(tmp_path, seed=7))
    assert run.seed == 7
    assert run.encoder.num_slots == 5
    assert run.world.num_envs == 32


@pytest.mark.parametrize(
    "world",
    [
        {"class_path": "evil_package.World"},
        {"class_path": "rl_probes.envs.sprite_world.SpriteWorld", "init_args": {"task": "evil_package.Task"}},
        {
            "class_path": "rl_probes.envs.sprite_world.SpriteWorld",
            "init_args": {"task": "{class_path: evil_package.Task}"},
        },
        "evil_package.World",
    ],
)
def test_foreign_classes_are_refused_before_any_import(tmp_path, monkeypatch, world):
    (tmp_path / "evil_package.py").write_text("raise SystemExit('executed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="evil_package"):
        read_run(write(tmp_path, world=world))
    assert "evil_package" not in sys.modules


def test_damaged_configs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("world: [")
    with pytest.raises(ValueError, match="restore it"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="restore it"):
        read_run(tmp_path)

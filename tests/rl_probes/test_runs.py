"""The command line from config to table, and configs that may not be built."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from ocl import checkpoints
from ocl.files import read_json, write_json
from ocl.instantiate import instantiate
from rl_probes import snapshot
from rl_probes.cli import main
from rl_probes.runs import Arguments, read_run

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "rl").glob("object_*.yaml"))
ORACLE = next(config for config in CONFIGS if config.stem == "object_comparison_oracle")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_train_and_evaluate_from_a_config(tmp_path, config, capsys):
    encoder = yaml.safe_load(config.read_text())["encoder"]["class_path"].rsplit(".", 1)[-1]
    folders = []
    for seed in (0, 1):
        folders.append(tmp_path / f"seed_{seed}")
        options = ["--total_steps", "2048", "--seed", str(seed), "--folder", str(folders[-1])]
        main(["ppo", "--config", str(config), *options])
    results = main(["evaluate", "--runs", str([str(folder) for folder in folders]), "--episodes", "20"])
    assert [result.name for result in results] == ["random", encoder, encoder]
    assert [result.seed for result in results[1:]] == [0, 1]
    assert "(!)" in capsys.readouterr().out  # two seeds
    saved = read_json(folders[1] / "evaluation.json")
    np.testing.assert_array_equal(saved["success"], results[2].episodes.success)
    assert saved["rows"][0]["seed"] == 1
    assert yaml.safe_load((folders[1] / "config.yaml").read_text())["seed"] == 1


def write(folder: Path, **changes: object) -> Path:
    content = yaml.safe_load(ORACLE.read_text()) | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_the_table_says_what_runs_were_paid_by(tmp_path, capsys):
    content = yaml.safe_load(ORACLE.with_stem("object_goal_oracle").read_text())
    content["world"]["init_args"]["num_envs"] = 8
    content |= {"total_steps": 256, "ppo": {"n_steps": 16, "batch_size": 64}}
    (tmp_path / "world.yaml").write_text(yaml.safe_dump(content))
    bonus = {"class_path": "rl_probes.closing_loop.NoveltyBonus", "init_args": {"coefficient": 0.5, "width": 8}}
    monitor = {"class_path": "rl_probes.closing_loop.HackingMonitor", "init_args": {"window": 400}}
    (tmp_path / "bonus.yaml").write_text(yaml.safe_dump(content | {"reward": bonus, "monitor": monitor}))
    runs = [str(tmp_path / name) for name in ("by_world", "by_bonus")]
    for run, name in zip(runs, ("world", "bonus"), strict=True):
        main(["ppo", "--config", str(tmp_path / f"{name}.yaml"), "--folder", run])
    options = ["evaluate", "--runs", str(runs), "--episodes", "4"]
    results = main(options)
    assert [result.reward[:12] for result in results] == ["", "", "NoveltyBonus"]
    text = capsys.readouterr().out
    assert "reward" in text
    assert "NoveltyBonus" in text
    with pytest.raises(ValueError, match="name some of the runs"):
        main([*options, "--reference", str([str(tmp_path / "another")])])
    with pytest.raises(ValueError, match="name some of the runs"):
        main([*options, "--reference", str(runs[:1]), "--score_range", "[0, 1]"])


def test_rewards_of_one_class_are_told_by_their_arguments(tmp_path):
    """Or runs with and without noise in the bonus would share a line of the table as if they were seeds."""

    def named(**arguments):
        node = {"class_path": "rl_probes.closing_loop.NoveltyBonus", "init_args": arguments}
        return read_run(write(tmp_path, reward=node)).reward

    assert named(sigma=0.0, width=64) == named(width=64, sigma=0.0) != named(sigma=1.0, width=64)
    assert named(sigma=0.0).startswith("NoveltyBonus ")
    assert read_run(write(tmp_path, reward=None)).reward == ""


def test_remembered_slots_of_another_encoder_are_refused(tmp_path):
    """The agent reads the world's slots: its own encoder's fingerprint says nothing of where they come from."""
    content = yaml.safe_load(ORACLE.read_text())
    world = {"world": content["world"], "encoder": content["encoder"], "frames": 2}
    node = {"class_path": "rl_probes.envs.memory.SlotMemory", "init_args": world}
    trained = read_run(write(tmp_path, world=node)).world.provenance()
    write_json(tmp_path / "manifest.json", {"config": {"world": trained}})
    assert read_run(tmp_path).world.provenance() == trained
    memory = trained["memory"] | {"slots": "ab" * 32}
    write_json(tmp_path / "manifest.json", {"config": {"world": trained | {"memory": memory}}})
    with pytest.raises(ValueError, match=r"trained on slots of the encoder abababababab, its world now gives"):
        read_run(tmp_path)
    read_run(tmp_path, world_arguments=Arguments({"encoder": content["encoder"]}))  # on purpose


def test_agents_with_and_without_memory_share_a_table(tmp_path):
    """They play the same episodes; lines differ by what is remembered, and changes of the world reach the inner one."""
    content = yaml.safe_load(ORACLE.read_text())
    content["world"]["init_args"]["num_envs"] = 8
    content |= {"total_steps": 128, "ppo": {"n_steps": 16, "batch_size": 64}}
    folders = [tmp_path / "alone"]
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(content))
    for frames in (1, 2):
        memory = {"world": content["world"], "encoder": content["encoder"], "frames": frames}
        world = {"class_path": "rl_probes.envs.memory.SlotMemory", "init_args": memory}
        reader = {"num_slots": 5, "dim": 13 * frames}
        encoder = {"class_path": "rl_probes.envs.memory.RememberedSlots", "init_args": reader}
        folders.append(tmp_path / f"frames_{frames}")
        (tmp_path / f"frames_{frames}.yaml").write_text(yaml.safe_dump(content | {"world": world, "encoder": encoder}))
    for folder in folders:
        main(["ppo", "--config", str(folder.with_suffix(".yaml")), "--folder", str(folder)])
    options = ["evaluate", "--runs", str(list(map(str, folders))), "--episodes", "6"]
    alone, one, two = main(options)[1:]
    np.testing.assert_array_equal(alone.episodes.seeds, one.episodes.seeds)
    np.testing.assert_array_equal(alone.episodes.returns, one.episodes.returns)  # the same object list, the same agent
    assert len({result.settings for result in (alone, one, two)}) == 3
    shift = ["--split", "textured", "--world_arguments", "{image_size: 32}"]
    assert [result.tokens for result in main([*options, *shift])[1:]] == [(5, 13), (5, 13), (5, 26)]
    assert read_run(folders[1], world_arguments=Arguments({"image_size": 32})).world.image_size == (32, 32)
    with pytest.raises(ValueError, match="wings"):
        read_run(folders[1], world_arguments=Arguments({"wings": 2}))


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
        {
            "class_path": "rl_probes.envs.gymnasium_world.GymnasiumWorld",
            "init_args": {"id": "evil_package:World-v0"},
        },
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
    write(tmp_path, encoder=None)
    with pytest.raises(ValueError, match="restore it"):
        read_run(tmp_path)


def test_an_encoder_from_a_checkpoint(tmp_path):
    """A config names the checkpoint's folder; the run is built and evaluated with it."""
    node = {
        "class_path": "ocl.representations.RandomCNN",
        "init_args": {"image_size": [64, 64], "dim": 8, "strides": [2, 2, 2, 2], "seed": 3},
    }
    encoder = instantiate(node)
    checkpoints.save(node, encoder, tmp_path / "encoder")
    loaded = {"class_path": "ocl.checkpoints.load_encoder", "init_args": {"folder": str(tmp_path / "encoder")}}
    run = read_run(write(tmp_path, encoder=loaded))
    assert run.encoder.fingerprint == encoder.fingerprint
    config, folder = tmp_path / "config.yaml", tmp_path / "run"
    main(["ppo", "--config", str(config), "--total_steps", "2048", "--folder", str(folder)])
    results = main(["evaluate", "--runs", f"[{folder}]", "--episodes", "5"])
    assert results[1].fingerprint == encoder.fingerprint
    assert results[1].tokens == (16, 8)


def test_procgen_trains_continues_exactly_and_is_scored_by_return(tmp_path, capsys):
    pytest.importorskip("envpool")
    content = yaml.safe_load((CONFIGS[0].parent / "fruitbot_slots.yaml").read_text())
    content["world"]["init_args"]["num_envs"] = 8
    content["encoder"] = {
        "class_path": "ocl.representations.RandomCNN",
        "init_args": {"image_size": [64, 64], "dim": 8, "strides": [2, 2, 2, 2]},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(content))

    def trained(folder: str, *steps: int) -> Path:
        for count in steps:
            options = ["--total_steps", str(count), "--folder", str(tmp_path / folder)]
            main(["ppo", "--config", str(tmp_path / "small.yaml"), *options])
        return tmp_path / folder

    whole, parts = trained("whole", 2048), trained("parts", 1024, 2048)
    first, second = (snapshot.load(folder / "agent.safetensors")["policy"] for folder in (whole, parts))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert "envpool" in str(read_json(whole / "manifest.json")["config"]["world"]).lower()

    options = ["--by_return", "true", "--episodes", "8", "--first_seed", "0"]
    results = main(["evaluate", "--runs", f"[{whole}]", *options])
    assert np.isfinite(results[1].episodes.returns).all()
    assert "return on held-out seeds" in capsys.readouterr().out


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Agents on the object list and on a small slot model, both hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    slots = {"class_path": "ocl.load", "init_args": {"folder": "sprites"}}
    changes = {"oracle": {}, "slots": {"encoder": slots}}
    for name, change in changes.items():
        (folder / name).mkdir()
        config = write(folder / name, **change) / "config.yaml"
        config.rename(folder / f"{name}.yaml")
        options = ["--total_steps=256", "--ppo.n_steps=16", "--world.init_args.num_envs=8", "--ppo.batch_size=64"]
        main(["ppo", "--config", str(folder / f"{name}.yaml"), "--folder", str(folder / name), *options])
    return folder / "oracle", folder / "slots"


def test_agents_are_evaluated_among_more_objects_than_they_were_trained_on(two_runs, capsys):
    world = "{task: 'object comparison, 6 objects', num_envs: 4}"
    options = ["--episodes", "4", "--split", "6 objects", "--world_arguments", world]
    results = main(
        [
            "evaluate",
            "--runs",
            str(list(map(str, two_runs))),
            *options,
            "--encoder_arguments",
            "{num_objects: 7, num_slots: 8}",
        ]
    )
    assert [result.tokens and result.tokens[0] for result in results] == [None, 7, 8]
    assert "success on 6 objects" in capsys.readouterr().out
    saved = read_json(two_runs[1] / "evaluation_6_objects.json")
    assert saved["world"]["num_objects"] == 6
    assert saved["rows"][0]["split"] == "6 objects"
    assert not (two_runs[1] / "evaluation.json").exists()
    with pytest.raises(ValueError, match=r"7"):  # the object list has as many rows as the world has sprites
        main(["evaluate", "--runs", f"[{two_runs[0]}]", *options])
    with pytest.raises(ValueError, match="no encoder of these runs takes slots"):
        main(["evaluate", "--runs", f"[{two_runs[0]}]", *options, "--encoder_arguments", "{slots: 7}"])
    with pytest.raises(ValueError, match="say what these episodes are called"):
        main(["evaluate", "--runs", f"[{two_runs[0]}]", "--world_arguments", world])


def test_a_changed_checkpoint_is_refused_with_another_number_of_slots_too(two_runs, tmp_path):
    """Of the run's own number of slots the agent knows the fingerprint, of another one only the manifest does."""
    run = tmp_path / "run"
    shutil.copytree(two_runs[1], run)
    options = ["evaluate", "--runs", f"[{run}]", "--episodes", "2", "--split", "more slots"]
    main([*options, "--encoder_arguments", "{num_slots: 8}"])
    manifest = read_json(run / "manifest.json")
    manifest["config"]["encoder"] = "0" * 64  # as if the checkpoint had been written anew since
    write_json(run / "manifest.json", manifest)
    with pytest.raises(ValueError, match="was trained on the encoder 000000000000, its config now gives"):
        main([*options, "--encoder_arguments", "{num_slots: 8}"])


def test_no_run_and_a_run_twice_are_refused(two_runs):
    for runs in ("[]", f"[{two_runs[0]}, {two_runs[0]}/]"):
        with pytest.raises(ValueError, match="runs: name at least one folder, and each of them once"):
            main(["evaluate", "--runs", runs, "--episodes", "2"])


def test_runs_of_one_seed_and_other_settings_do_not_share_a_line(two_runs, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(two_runs[0], other)
    content = yaml.safe_load((other / "config.yaml").read_text())
    content["ppo"]["learning_rate"] = 1e-4
    (other / "config.yaml").write_text(yaml.safe_dump(content))
    runs = ["evaluate", "--episodes", "2", "--runs"]
    first, second = main([*runs, f"[{two_runs[0]}, {other}]"])[1:]
    assert first.settings != second.settings
    assert capsys.readouterr().out.count("settings") == 2
    copy = tmp_path / "copy"
    shutil.copytree(two_runs[0], copy)
    with pytest.raises(ValueError, match="a seed twice"):
        main([*runs, f"[{two_runs[0]}, {copy}]"])


def test_agents_are_evaluated_under_another_appearance(two_runs):
    shifts = [{"class_path": "rl_probes.envs.appearance.Textured", "init_args": {"strength": 0.8}}]
    plain, shifted = (
        main(["evaluate", "--runs", str(list(map(str, two_runs))), "--episodes", "8", *more])
        for more in ([], ["--split", "texture", "--world_arguments", yaml.safe_dump({"appearances": shifts})])
    )
    # The random agent and the one on the object list see no pixels: the same episodes, step by step.
    for before, after in zip(plain[:2], shifted[:2], strict=True):
        np.testing.assert_array_equal(before.episodes.lengths, after.episodes.lengths)
    assert (plain[2].episodes.lengths != shifted[2].episodes.lengths).any()
    saved = read_json(two_runs[1] / "evaluation_texture.json")["world"]["appearances"]
    assert saved == ["Textured(strength=0.8, background=TextureBackground(cycles=(2.0, 6.0)))"]


def test_runs_in_different_worlds_are_refused_before_anything_is_played(two_runs, tmp_path):
    content = yaml.safe_load(ORACLE.read_text())
    content["world"]["init_args"] |= {"num_envs": 4, "task": "object comparison, 5 objects"}
    other = write(tmp_path, world=content["world"])
    options = ["--episodes", "4", "--split", "two worlds"]
    with pytest.raises(ValueError, match="another world"):
        main(["evaluate", "--runs", str([str(two_runs[0]), str(other)]), *options])
    assert not (two_runs[0] / "evaluation_two_worlds.json").exists()

"""The benchmark's episodes are what they claim, survive no alteration, and are compared once."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from ocl.files import read_json
from ocl.representations import OracleObjects
from rl_probes.envs.named import task_of
from rl_probes.envs.sprite_world import TIME_LIMIT
from rl_probes.recording import Goals
from rl_probes.reward_benchmark.command import benchmark
from rl_probes.reward_benchmark.page import attribution_strip
from rl_probes.reward_benchmark.play import KINDS
from rl_probes.reward_benchmark.recipes import Episodes, GoalSimilarity, Progress, Stages, Steps
from rl_probes.reward_benchmark.stored import generate, load
from rl_probes.reward_scores import scores_of

TASKS = ("object goal", "push N1C4S1S1")
DIGEST = "a44a468db115572008352e1cf98ef49860680816696e3a19cceb1cec6fe10d85"
"""Of the object goal episodes of version 1 in this size."""
POSITIVE = ("expert", "careless expert")


@pytest.fixture(scope="module")
def episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("episodes"), TASKS, train_starts=42, test_starts=6)


def oracle() -> OracleObjects:
    return OracleObjects(5, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})


@pytest.mark.parametrize("task", TASKS)
def test_every_episode_is_what_its_kind_says(episodes, task):
    frames = load(episodes, task).frames
    for name in np.unique(frames["episode"]):
        one = {key: value[frames["episode"] == name] for key, value in frames.items()}
        kind = KINDS[one["kind"][0]].name
        assert one["success"][-1] == (kind in POSITIVE)
        assert one["progress"][-1] == 1 or kind not in POSITIVE
        assert one["terminated"][-1] or one["truncated"][-1]
        assert not (one["terminated"] | one["truncated"])[:-1].any()
        assert len(one["step"]) <= TIME_LIMIT + 1
        assert one["step"].tolist() == list(range(len(one["step"])))
        assert (one["action"][1:] >= 0).all()
        assert one["reward"].sum() == (kind in POSITIVE)
        if kind == "wrong object":
            assert one["terminated"][-1]


def test_progress_is_what_the_task_says_of_the_stored_objects(episodes):
    frames = load(episodes, "push N1C4S1S1").frames
    square = frames["position"][:, 0] * [1, -1] + [0, 1]  # y up
    progress = task_of("push N1C4S1S1").progress(square, square[:, None], np.zeros(len(square), np.int64))
    np.testing.assert_allclose(frames["progress"], progress, atol=1e-6)
    assert set(np.unique(frames["stage"])) == {0, 1}


def test_starts_are_split_and_tests_see_every_kind_from_each(episodes):
    stored = load(episodes, "object goal")
    starts = {split: stored.split(split).frames["start"] for split in ("train", "val", "test")}
    assert not set(starts["train"]) & set(starts["test"])
    assert not set(starts["val"]) & set(starts["test"])
    assert len(np.unique(stored.split("train").frames["kind"])) == len(KINDS)
    test = stored.split("test").frames
    for start in np.unique(test["start"]):
        assert {0, 3, 6} <= set(test["kind"][test["start"] == start])


def test_the_goal_is_reached_by_the_goal(episodes):
    stored = load(episodes, "object goal")
    recording, goals = stored.encode(oracle())
    assert isinstance(goals, Goals)
    assert len(goals) == len(recording)
    whole = Episodes(recording, stored.frames["stage"])
    similarity = scores_of(GoalSimilarity().make(whole, whole, 0), recording, 0.99, goals)
    ends = recording.success & (stored.frames["kind"] == 0)
    far = recording.step == 0
    assert similarity.state[ends].mean() > similarity.state[far].mean()
    assert (goals.weight.sum(1) == 1).all()


def test_generation_is_a_function_of_its_settings(episodes, tmp_path):
    other = generate(tmp_path / "again", TASKS[:1], train_starts=42, test_starts=6)
    again = load(other, TASKS[0])
    first = load(episodes, TASKS[0])
    for name, values in first.frames.items():
        np.testing.assert_array_equal(values, again.frames[name])
    assert again.digest == DIGEST, "other episodes under the same version: raise stored.VERSION"
    assert generate(other, TASKS[:1], train_starts=42, test_starts=6) == other
    with pytest.raises(ValueError, match="already holds a benchmark of other settings"):
        generate(other, TASKS[:1], train_starts=42, test_starts=7)


def test_altered_episodes_are_refused(tmp_path):
    folder = generate(tmp_path, TASKS[:1], train_starts=42, test_starts=2)
    shard = folder / "object_goal" / "frames" / "shard-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="checksum differs"):
        load(folder, TASKS[0])
    with pytest.raises(ValueError, match="checksum differs"):
        generate(folder, TASKS[:1], train_starts=42, test_starts=2)
    with pytest.raises(ValueError, match="has no task 'push'"):
        load(folder, "push")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing", TASKS[0])


def compare(episodes: Path, folder: Path, **changes):
    predictors = {
        "deep set": Progress(epochs=2),
        "with negatives": Progress(epochs=1, negatives=True),
        "pair": Steps(epochs=1),
        "stages": Stages(epochs=1),
        "similarity": GoalSimilarity(),
    }
    given = {
        "tasks": ["object goal"],
        "encoders": {"oracle": oracle()},
        "predictors": predictors,
        "seeds": [0],
        "resamples": 20,
    }
    return benchmark(episodes, folder=folder, **(given | changes))


def test_a_benchmark_compares_continues_and_reports(episodes, tmp_path):
    rows = compare(episodes, tmp_path)
    value = {(row["predictor"], row["measure"]): row["value"] for row in rows}
    assert value["oracle", "epic"] < 1e-6
    assert value["oracle", "success_auroc"] == 1
    assert value["constant", "epic"] == pytest.approx(0.5**0.5)
    assert value["clock", "order_forward"] == pytest.approx(1)
    assert value["similarity", "epic"] < 0.35
    assert value["deep set", "order_leak"] < 1e-5
    assert {name for name, _ in value} >= {"deep set", "with negatives", "pair", "stages", "similarity", "random"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 5, "attribution of every predictor"
    with (tmp_path / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)

    cell = tmp_path / "cells" / "object_goal" / "oracle" / "pair" / "seed-0" / "cell.json"
    before = cell.stat().st_mtime_ns
    more = compare(episodes, tmp_path, seeds=[0, 1])
    assert cell.stat().st_mtime_ns == before, "finished cells are not made again"
    assert {str(row) for row in rows} < {str(row) for row in more}
    assert read_json(tmp_path / "manifest.json")["encoders"] == {"oracle": oracle().fingerprint}
    with pytest.raises(ValueError, match="holds a cell with another gamma"):
        compare(episodes, tmp_path, gamma=0.9)
    with pytest.raises(ValueError, match="clock is the name of a control"):
        compare(episodes, tmp_path, predictors={"clock": Progress()})
    with pytest.raises(ValueError, match="'deep set/3' cannot be the name of a folder"):
        compare(episodes, tmp_path, predictors={"deep set/3": Progress()})


def test_attribution_is_painted_where_the_mask_is():
    images = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
    masks = torch.zeros(2, 2, 8, 8)
    masks[:, 0, :4], masks[:, 1, 4:] = 1, 1
    strip = attribution_strip(images, masks, torch.tensor([[2.0, 0.0], [0.0, -1.0]]))
    assert strip.shape == (3, 8, 16)
    top, bottom = strip[:, 0], strip[:, 7]
    assert top[0, 0] > top[2, 0], "orange raises"
    assert bottom[2, 15] > bottom[0, 15], "blue lowers"
    assert (bottom[:, 0] == 60).all()
    assert (top[:, 15] == 60).all(), "what does not count is dim"

"""The whole path in small: every row there, nothing outside the page, and nothing done twice."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

from ocl.data.collate import collate
from ocl.files import read_json
from ocl.metrics.segmentation import SegmentationMetrics
from ocl.shapes import Decoded
from rl_probes import snapshot
from rl_probes.cli import main
from rl_probes.controls import RandomAgent
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison
from rl_probes.evaluate import evaluate
from rl_probes.quickstart.agents import painted_by
from rl_probes.quickstart.jobs import Job, run_jobs
from rl_probes.quickstart.perception import measure
from rl_probes.quickstart.slots import training_curve
from rl_probes.quickstart.stages import Stage, row
from rl_probes.quickstart.subjects import HELD_OUT, PRETRAINED, Subject, scenes
from rl_probes.train import FIRST_SEED

ROOT = Path(__file__).parents[2]
AGENT = ROOT / "configs" / "rl" / "object_comparison_oracle.yaml"
EPISODES = 12


@pytest.fixture(scope="module")
def slots_config(tmp_path_factory) -> Path:
    """The quickstart's own config with fewer steps and scenes."""
    content = yaml.safe_load((ROOT / "configs" / "quickstart" / "slots.yaml").read_text())
    content["trainer"] |= {"max_steps": 40, "val_check_interval": 10, "enable_progress_bar": False}
    content["data"] |= {"num_workers": 0, "batch_size": 16}
    content["data"]["train"]["init_args"]["size"] = 160
    content["data"]["val"]["init_args"]["size"] = 32
    path = tmp_path_factory.mktemp("config") / "slots.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(folder: Path, slots_config: Path, **changes: object) -> list[dict]:
    options = {
        "folder": folder,
        "slots_config": slots_config,
        "agent_config": AGENT,
        "slot_steps": 20,
        "images": 128,
        "held_out": 64,
        "reward_frames": 2048,
        "reward_epochs": 1,
        "agent_steps": 2048,
        "episodes": EPISODES,
        **changes,
    }
    return main(["quickstart", *(f"--{name}={value}" for name, value in options.items())])


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.slow
def test_from_images_to_agents(tmp_path, slots_config, capfd):
    folder = tmp_path / "quickstart"
    rows = run(folder, slots_config)
    assert rows == read_json(folder / "results.json")
    for found in rows:
        assert {"name", "value", "unit", "seed", "split"} <= set(found)
        numbers = [value for key, value in found.items() if key not in ("name", "unit", "split")]
        assert all(math.isfinite(number) for number in numbers)
        assert found.get("low", -math.inf) <= found["value"] <= found.get("high", math.inf)
    value = {found["name"]: found["value"] for found in rows}
    assert len(value) == len(rows)

    learned = ("slots", "untrained", *(["pretrained"] if PRETRAINED.is_dir() else []))
    everybody = (*learned, "oracle")
    for name in learned:
        for metric in SegmentationMetrics.names:
            assert -1 <= value[f"segmentation/{name}/{metric}"] <= 1
    for name in everybody:
        for probe in ("linear", "mlp"):
            assert value[f"probe/{name}/position/{probe}/r2"] <= 1
            for category in ("color", "shape"):
                assert 0 <= value[f"probe/{name}/{category}/{probe}/accuracy"] <= 1
        assert 0 <= value[f"reward/{name}/epic"] <= 1
        assert 0 <= value[f"agent/{name}/success"] <= 1
        assert value[f"agent/{name}/steps"] == 2048
    assert value["probe/oracle/position/mlp/r2"] > 0.9
    assert value["probe/oracle/color/mlp/accuracy"] > 0.95
    assert value["reward/truth/epic"] < 1e-6
    assert 0.6 < value["reward/random/epic"] < 0.8
    assert {"reward/clock/epic", "training/foreground_ari", "training/minutes"} <= set(value)
    assert len(training_curve(folder / "slots")) == 2  # validated twice in 20 steps

    world = SpriteWorld(ObjectComparison(4), 7)  # nothing here but the seeds is shared with the run
    chance = evaluate(RandomAgent(4), world, np.arange(FIRST_SEED, FIRST_SEED + EPISODES))
    assert value["agent/random_policy/success"] == chance.success.mean()

    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<img") == 2 * len(learned)  # slots and an episode of each
    assert page.count("<svg") == 3
    for title in ("trained here", "untrained", "oracle", "chance"):
        assert title in page
    with Image.open(folder / "agents" / "slots" / "episode.gif") as episode:
        played = read_json(folder / "agents" / "slots" / "evaluation.json")
        assert episode.n_frames - 1 in played["lengths"]
        assert episode.size == (128, 64)
    printed = capfd.readouterr().out
    assert printed.strip().endswith("report.html")
    for stage in ("slots", "perception/slots", "rewards/oracle", "agents/untrained", "agents/random_policy"):
        manifest = read_json(folder / stage / "manifest.json")
        assert manifest["seed"] == 0
        assert {"versions", "commit", "config"} <= set(manifest)

    # Again: nothing is done twice, and the page comes out the same.
    before = digests(folder)
    assert run(folder, slots_config) == rows
    assert digests(folder) == before

    # Where one stage is gone, it is done again, to the same figures and bytes.
    weights = snapshot.load(folder / "agents" / "slots" / "run" / "agent.safetensors")["policy"]
    (folder / "agents" / "slots" / "manifest.json").unlink()
    (folder / "perception" / "slots" / "manifest.json").unlink()
    (folder / "perception" / "slots" / "features" / "train" / "shard-00000.safetensors").unlink()
    again = {found["name"]: found["value"] for found in run(folder, slots_config)}
    same = [name for name in value if not name.startswith("time/")]
    assert {name: again[name] for name in same} == {name: value[name] for name in same}
    after = digests(folder)
    assert (
        after["perception/slots/features/train/shard-00000.safetensors"]
        == before["perception/slots/features/train/shard-00000.safetensors"]
    )
    for name, array in snapshot.load(folder / "agents" / "slots" / "run" / "agent.safetensors")["policy"].items():
        np.testing.assert_array_equal(array, weights[name])
    assert after["agents/slots/episode.gif"] == before["agents/slots/episode.gif"]

    with pytest.raises(ValueError, match=r"another config|another steps"):
        run(folder, slots_config, slot_steps=30)
    with pytest.raises(ValueError, match="another episodes"):
        run(folder, slots_config, episodes=EPISODES + 1)

    # The runs are those of the other commands.
    alike = ("slots", "untrained")  # they see the same frames, so one table holds them
    runs = [str(folder / "agents" / name / "run") for name in alike]
    results = main(["evaluate", f"--runs={runs}", f"--episodes={EPISODES}"])
    found = {result.fingerprint: result.score(False) for result in results[1:]}
    assert list(found.values()) == [value[f"agent/{name}/success"] for name in alike]


def test_segmentation_is_what_the_metric_says(tmp_path):
    """The rows equal `SegmentationMetrics` on the same scenes, batched otherwise."""
    from ocl import checkpoints
    from ocl.instantiate import instantiate

    def node(path: str, **arguments: object) -> dict:
        return {"class_path": path, "init_args": arguments}

    tree = node(
        "ocl.model.ObjectCentricModel",
        encoder=node("ocl.encoders.cnn.CNNEncoder", image_size=[32, 32], dim=16, channels=8, strides=[2, 2]),
        initial_slots=node("ocl.slots.initial.RandomSlots", num_slots=4, dim=16),
        grouping=node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16),
        decoder=node("ocl.decoders.patch.PatchDecoder", dim=16, grid=[8, 8], patch=2, hidden_dim=16),
    )
    checkpoints.save(tree, instantiate(tree), tmp_path / "model")
    subject = Subject("small", "small", tmp_path / "model")
    (tmp_path / "stage").mkdir()
    rows = {found["name"]: found for found in measure(tmp_path / "stage", subject, images=96, held_out=100, seed=0)}
    metrics, encoder = SegmentationMetrics(), subject.masking_encoder()
    for batch in DataLoader(scenes(100, HELD_OUT, 32), 7, collate_fn=collate):
        metrics.update(encoder(batch).masks, batch.segmentation)
    for name, expected in metrics.compute().items():
        found = rows[f"segmentation/small/{name}"]
        assert found["value"] == pytest.approx(float(expected), abs=1e-6)
        assert found["low"] <= found["value"] <= found["high"]
    with Image.open(tmp_path / "stage" / "slots.png") as image:
        assert image.size == (2 + 7 * 34, 2 + 6 * 34)  # image, reconstruction, overlay, four slots


def test_missing_configs_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml does not exist"):
        run(tmp_path / "run", tmp_path / "none.yaml")


def test_what_is_painted_black_belongs_to_no_slot():
    masks = torch.zeros(1, 3, 2, 2)
    masks[0, [0, 1, 2, 2], [0, 0, 1, 1], [0, 1, 0, 1]] = 1
    prediction = torch.full((1, 3, 2, 2), -1.0)
    prediction[0, 2, 0, 1] = 0.5  # blue, by slot 1
    prediction[0, 0, 1, 0] = -0.4  # a dark red, by slot 2
    decoded = Decoded(prediction, masks)
    assert painted_by(decoded, (2, 2)).tolist() == [[[-1, 1], [2, -1]]]
    assert painted_by(decoded, (8, 8))[0, :2, 6:].unique().tolist() == [1]


# Stages and jobs


def test_a_stage_is_done_once_its_manifest_is_there(tmp_path):
    stage = Stage(tmp_path / "stage", {"steps": (1, 2), "name": "a"}, seed=3)
    assert not stage.is_done()
    rows = [row("x", 0.5, "fraction", 3, "test", low=0.4, high=0.6)]
    stage.finish(rows, 1.26)
    assert stage.is_done()
    assert stage.rows == rows
    assert stage.seconds == 1.3
    with pytest.raises(ValueError, match="another steps; delete it"):
        Stage(stage.folder, {"steps": (1, 3), "name": "a"}, seed=3).is_done()
    with pytest.raises(ValueError, match="another seed"):
        Stage(stage.folder, stage.settings, seed=4).is_done()
    with pytest.raises(ValueError, match="x is not finite"):
        row("x", math.nan, "fraction", 0, "test")


def _number(folder: Path, number: int) -> list[dict]:
    print("working on", number)
    return [row(f"n/{number}", number, "1", 0, "test")]


def _fails(folder: Path) -> list[dict]:
    sys.exit("this went wrong")


def _waits(folder: Path) -> list[dict]:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(600)
    return []


def test_jobs_run_side_by_side_and_leave_their_rows_and_logs(tmp_path):
    jobs = [Job(f"job {n}", Stage(tmp_path / str(n), {"n": n}, 0), partial(_number, number=n)) for n in range(3)]
    run_jobs(jobs, processes=3)
    assert [job.stage.rows[0]["value"] for job in jobs] == [0, 1, 2]
    assert (tmp_path / "1" / "log.txt").read_text() == "working on 1\n"
    before = digests(tmp_path)
    run_jobs(jobs, processes=3)
    assert digests(tmp_path) == before


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _gone(process: int) -> bool:
    for _ in range(300):
        if not alive(process):
            return True
        time.sleep(0.1)
    return False


def _appeared(path: Path) -> int:
    for _ in range(600):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise AssertionError(f"{path} never appeared")


def _run_waiting(folder: Path) -> None:
    run_jobs([Job("waits", Stage(folder, {}, 0), _waits)], 1)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc whether a process lives")
def test_a_failed_job_is_named_and_stops_the_others(tmp_path):
    waits = Job("waits", Stage(tmp_path / "waits", {}, 0), _waits)
    with pytest.raises(RuntimeError, match=r"fails failed with status 1; .*log\.txt ends in: this went wrong"):
        run_jobs([waits, Job("fails", Stage(tmp_path / "fails", {}, 0), _fails)], 2)
    assert not waits.stage.is_done()
    if (tmp_path / "waits" / "pid").exists():
        assert _gone(_appeared(tmp_path / "waits" / "pid"))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks /proc whether a process lives")
def test_jobs_end_with_whoever_started_them(tmp_path):
    parent = multiprocessing.get_context("spawn").Process(target=_run_waiting, args=(tmp_path,))
    parent.start()
    child = _appeared(tmp_path / "pid")
    assert alive(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    assert _gone(child)

"""`rl-probes reward evaluate`: saved heads of any kind on a recorded store, with the figures of `evaluate_progress`."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ocl.files import read_json, write_json
from ocl.representations import OracleObjects
from rl_probes.cli import main
from rl_probes.collect import collect
from rl_probes.envs.sprite_world import SpriteWorld, scripted_actions
from rl_probes.envs.tasks import ObjectGoal
from rl_probes.evaluate_rewards import evaluate_progress
from rl_probes.fit_rewards import fit_progress
from rl_probes.labels import with_discounted_success
from rl_probes.players import Scripted
from rl_probes.recording import Recording
from rl_probes.rewards.checkpoint import load_head, save_head
from rl_probes.rewards.hop_reward import HopReward
from rl_probes.rewards.set_progress import DeepSetProgress

ENCODER = OracleObjects(5, {"position": 2, "scale": 1}, {"shape": 4, "color": 4, "is_agent": 2})


def head(kind, fingerprint=ENCODER.fingerprint):
    torch.manual_seed(0)
    made = kind(ENCODER.dim, 16)
    made.encoder_fingerprint = fingerprint
    return made.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recording")
    world = SpriteWorld(ObjectGoal(), 8, 16, seed=0)
    collect(world, folder, "object goal", 8 * 128, ENCODER, [Scripted(scripted_actions)], length=128, seed=0)
    return folder


def evaluate(store, folder, **heads):
    given = json.dumps({name: str(where) for name, where in heads.items()})
    return main(["reward", "evaluate", f"--recording={store}", f"--heads={given}", f"--folder={folder}", "--gamma=0.9"])


def test_the_rows_are_those_of_the_heads_and_are_written(store, tmp_path, capsys):
    heads = {"states": head(DeepSetProgress), "pairs": head(HopReward)}
    folders = {name: save_head(made, tmp_path / name).parent for name, made in heads.items()}
    rows = evaluate(store, tmp_path / "out", **folders)
    expected = evaluate_progress(heads, Recording.load(store), gamma=0.9, split="all")
    assert [row["name"] for row in rows] == [row["name"] for row in expected]
    for row, same in zip(rows, expected, strict=True):
        assert row == pytest.approx(same, nan_ok=True)
    values = {row["name"]: row["value"] for row in rows}
    assert values["reward/oracle/epic"] == pytest.approx(0.0, abs=1e-6)
    assert values["reward/constant/epic"] == pytest.approx(0.5**0.5)
    assert 0 < values["reward/success_rate"] <= 1
    assert len(read_json(tmp_path / "out" / "results.json")) == len(rows)
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest["config"]["gamma"] == 0.9
    assert manifest["config"]["encoder_fingerprint"] == ENCODER.fingerprint
    digests = {name: read_json(where / "head.json")["sha256"] for name, where in folders.items()}
    assert manifest["config"]["heads"] == digests
    assert len(set(digests.values())) == 2
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("states", "pairs", "clock", "random"))


def test_a_head_of_discounted_success_sees_no_true_progress(store, tmp_path, monkeypatch):
    """With a discount, the recorded progress may as well be unknown: the head is the one fitted on the new labels."""
    blank = replace(Recording.load(store), progress=np.full(8 * 128, np.nan, np.float32))
    train, val, _ = with_discounted_success(blank, 0.9).split()
    expected = fit_progress(train, val, epochs=2).state_dict()
    monkeypatch.setattr(Recording, "load", lambda _: blank)
    options = [f"--recording={store}", f"--folder={tmp_path}", "--epochs=2", "--discount=0.9"]
    values = {row["name"]: row["value"] for row in main(["reward", "fit", *options])}
    found = load_head(DeepSetProgress, tmp_path).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert values["reward/oracle/epic"] == pytest.approx(0.0, abs=1e-6)
    assert read_json(tmp_path / "head.json")["notes"]["discount"] == 0.9
    assert read_json(tmp_path / "manifest.json")["config"]["discount"] == 0.9


def test_what_cannot_be_measured_is_named(store, tmp_path):
    other = save_head(head(DeepSetProgress, "another"), tmp_path / "other").parent
    with pytest.raises(ValueError, match="fitted on slots of the encoder another"):
        evaluate(store, tmp_path / "out", one=other)
    clock = save_head(head(DeepSetProgress), tmp_path / "head").parent
    with pytest.raises(ValueError, match="clock is the name of a control"):
        evaluate(store, tmp_path / "out", clock=clock)
    description = read_json(clock / "head.json")
    write_json(clock / "head.json", description | {"class": "Unheard"})
    with pytest.raises(ValueError, match="'Unheard', which is not imported"):
        evaluate(store, tmp_path / "out", one=clock)
    with pytest.raises(FileNotFoundError):
        evaluate(store, tmp_path / "out", one=tmp_path / "nothing")
    assert not (tmp_path / "out" / "results.json").exists()

"""Frames for pretraining: who plays them, what is stored of them, and processes that are killed while they collect."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ocl.commands import run as run_command
from ocl.data.collate import collate as collated
from ocl.data.stored import StoredScenes
from ocl.representations import OracleObjects
from ocl.store import FeatureStore
from rl_probes.cli import COMMANDS
from rl_probes.collect import collect
from rl_probes.envs.memory import SlotMemory
from rl_probes.envs.procgen import ProcgenWorld
from rl_probes.envs.sprite_world import SpriteWorld, scripted_actions
from rl_probes.players import RandomPlayer, Scripted, TrainedAgent
from rl_probes.recording import Recording

FIELDS = ("images", "segmentation", "objects")


def world(count: int = 4, task: str = "object goal") -> SpriteWorld:
    return SpriteWorld(task, num_envs=count, image_size=32)


def gather(folder: Path, **changes: Any) -> FeatureStore | None:
    options = {"frames": 2000, "length": 25, "fields": FIELDS, "players": [Scripted(scripted_actions)], **changes}
    return collect(world(), folder, "object goal", **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def as_node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `rl-probes ppo`, short."""
    folder = tmp_path_factory.mktemp("agent")
    categories = {"shape": 4, "color": 4, "is_agent": 2}
    settings = {
        "folder": str(folder / "run"),
        "total_steps": 6144,
        "world": as_node("rl_probes.envs.sprite_world.SpriteWorld", task="object goal", num_envs=16, image_size=32),
        "encoder": as_node(
            "ocl.representations.OracleObjects", num_objects=5, quantities={"position": 2}, categories=categories
        ),
        "pooling": as_node("rl_probes.pooling.DeepSetPooling", width=32, layers=1),
        "ppo": {"n_steps": 64, "batch_size": 256, "n_epochs": 8, "learning_rate": 0.003},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    run_command("rl-probes", None, {"ppo": COMMANDS["ppo"]}, ["ppo", "--config", str(folder / "run.yaml")])
    return folder / "run"


def test_masks_and_attributes_are_those_of_the_world(tmp_path: Path) -> None:
    """Replay an episode from its seed and its actions, and compare what was stored with what is shown."""
    assert gather(tmp_path, frames=200) is not None
    recording, stored = Recording.load(tmp_path), StoredScenes(tmp_path)
    alone = world(1)
    for name in np.unique(recording.episode)[:6]:
        frames = np.flatnonzero(recording.episode == name)
        seed = np.random.SeedSequence([0, int(name)]).generate_state(1)[0] >> 1
        alone.reset(seeds=np.array([seed], np.int64))
        for frame in frames:
            if recording.step[frame]:
                alone.step(recording.action[[frame]])
            shown, item = alone.observe(frozenset(FIELDS)), stored[int(frame)]
            assert torch.equal(item["images"], shown.images[0])
            assert torch.equal(item["segmentation"].long(), shown.segmentation[0])
            assert all(torch.equal(item[key], values[0]) for key, values in shown.objects.items())


def test_frames_are_read_as_scenes_with_masks(tmp_path: Path) -> None:
    gather(tmp_path, frames=100, players=())
    fields = ["images", "segmentation", "visible", "position"]
    batch = collated(StoredScenes(tmp_path, fields).__getitems__(range(0, 100, 7)))
    assert batch.segmentation is not None
    assert batch.segmentation.dtype == torch.int64
    assert set(batch.objects) == {"visible", "position"}
    areas = torch.stack([(batch.segmentation == m + 1).sum((1, 2)) for m in range(5)], 1)
    assert (areas > 0).all(), "four objects and the agent, none hidden entirely"


def test_a_mixture_plays_in_proportion_to_its_shares(tmp_path: Path) -> None:
    players = [Scripted(scripted_actions, share=3), RandomPlayer(share=1)]
    gather(tmp_path, frames=8000, length=200, fields=(), players=players, epsilon=(0, 0))
    recording = Recording.load(tmp_path)
    straight, episodes = 0, 0
    for name in recording.episode[recording.finals()]:
        frames = np.flatnonzero(recording.episode == name)
        left = 1 - recording.progress[frames]
        straight += bool((np.diff(left) <= 1e-6).all() and recording.success[frames[-1]])
        episodes += 1
    assert episodes > 300
    assert 0.65 < straight / episodes < 0.82  # 0.75 by the script, 0.96 of which meet nothing else, and random luck


def test_a_trained_agent_plays_as_it_does_when_it_is_evaluated(trained: Path, tmp_path: Path) -> None:
    store = collect(world(), tmp_path / "agent", "goal", 3000, players=[TrainedAgent(trained)], epsilon=(0, 0))
    assert store is not None
    collect(world(), tmp_path / "random", "goal", 3000)
    rates = {}
    for name in ("agent", "random"):
        recording = Recording.load(tmp_path / name)
        rates[name] = recording.success[recording.finals()].mean()
    assert rates["agent"] > rates["random"] + 0.15
    player = TrainedAgent(trained, most_likely=True)
    one = world(3)
    probabilities = player.agent.action_probabilities(one.observe(player.requires))
    indices = np.array([2, 0])
    chosen = player.actions(one, indices, np.random.default_rng(0))
    assert chosen.tolist() == probabilities.argmax(1)[indices].tolist()
    many = world(1)
    sampler = TrainedAgent(trained)
    probabilities = sampler.agent.action_probabilities(many.observe(sampler.requires))[0]
    generator = np.random.default_rng(0)
    drawn = np.bincount([sampler.actions(many, np.array([0]), generator)[0] for _ in range(1500)], minlength=4)
    np.testing.assert_allclose(drawn / 1500, probabilities, atol=0.05)
    described = store.provenance["players"][0]
    assert described["encoder"] == player.agent.observer.encoder.fingerprint
    assert str(trained) not in str(store.provenance)


def test_kills_at_random_moments_leave_the_same_bytes(tmp_path: Path, trained: Path) -> None:
    """SIGKILL, again and again, to two workers that share a folder; then whoever comes last finishes."""
    players = [TrainedAgent(trained), RandomPlayer()]
    gather(tmp_path / "whole", players=players)
    context, generator = multiprocessing.get_context("fork"), np.random.default_rng()
    kills = 0
    while kills < 10:
        pair = [
            context.Process(
                target=gather, args=(tmp_path / "killed",), kwargs={"players": players, "worker": w, "workers": 2}
            )
            for w in range(2)
        ]
        for process in pair:
            process.start()
        time.sleep(generator.uniform(0, 0.25))
        for process in pair:
            process.kill()
            process.join()
            kills += process.exitcode == -9
        if (tmp_path / "killed" / "index.json").is_file():
            break
    assert kills > 0
    done = [gather(tmp_path / "killed", players=players, worker=w, workers=2) for w in range(2)]
    assert done[1] is not None
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_each_worker_writes_its_shards(tmp_path: Path) -> None:
    assert gather(tmp_path / "both", worker=1, workers=3) is None
    written = sorted(path.name for path in (tmp_path / "both").glob("shard-*"))
    assert written == [f"shard-{number:05d}.safetensors" for number in range(1, 20, 3)]
    assert gather(tmp_path / "both", worker=2, workers=3) is None
    assert gather(tmp_path / "both", worker=0, workers=3) is not None
    gather(tmp_path / "alone")
    assert content(tmp_path / "both") == content(tmp_path / "alone")


def test_what_cannot_be_is_named(tmp_path: Path, trained: Path) -> None:
    with pytest.raises(ValueError, match=r"fields needs \['depth'\], which SpriteWorld cannot show"):
        gather(tmp_path, fields=("images", "depth"))
    with pytest.raises(ValueError, match="shares must be positive"):
        gather(tmp_path, players=[RandomPlayer(share=0)])
    with pytest.raises(ValueError, match=r"worker must be in 0\.\.1, got 2"):
        gather(tmp_path, worker=2, workers=2)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml does not exist"):
        TrainedAgent(tmp_path)

    class Five(SpriteWorld):
        num_actions = 5

    with pytest.raises(ValueError, match="knows 4 actions, Five has 5"):
        collect(Five("object goal"), tmp_path, "goal", 10, players=[TrainedAgent(trained)])
    gather(tmp_path / "goal", frames=100)
    with pytest.raises(ValueError, match=r"another origin \(shard 0 differs in world\)"):
        collect(
            world(task="object comparison"), tmp_path / "goal", "object goal", 100, length=25, fields=FIELDS,
            players=[Scripted(scripted_actions)],
        )  # fmt: skip


def test_an_agent_that_reads_remembered_slots_plays_where_there_are_the_same(tmp_path: Path, trained: Path) -> None:
    nodes = yaml.safe_load((trained / "config.yaml").read_text())
    settings = {
        "folder": str(tmp_path / "run"),
        "total_steps": 32,
        "standardise": False,
        "world": as_node("rl_probes.envs.memory.SlotMemory", world=nodes["world"], encoder=nodes["encoder"], frames=2),
        "encoder": as_node("rl_probes.envs.memory.RememberedSlots", num_slots=5, dim=24),
        "pooling": nodes["pooling"],
        "ppo": {"n_steps": 2, "batch_size": 32, "n_epochs": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    run_command("rl-probes", None, {"ppo": COMMANDS["ppo"]}, ["ppo", "--config", str(tmp_path / "run.yaml")])
    reader, other = TrainedAgent(tmp_path / "run"), TrainedAgent(trained)
    encoder, sentence = other.agent.observer.encoder, "the agent was trained on .* and cannot read .*; let it play"
    remembering = SlotMemory(world(), encoder, frames=2)
    assert collect(remembering, tmp_path / "same", "goal", 40, players=[reader], length=10) is not None
    with pytest.raises(ValueError, match=sentence):
        collect(world(), tmp_path / "none", "goal", 40, players=[reader], length=10)
    with pytest.raises(ValueError, match=sentence):
        collect(remembering, tmp_path / "none", "goal", 40, players=[other], length=10)
    categories = {"shape": 4, "color": 4, "is_agent": 2}
    alike = OracleObjects(num_objects=5, quantities={"scale": 1, "visible": 1}, categories=categories)
    assert (alike.num_slots, alike.dim) == (encoder.num_slots, encoder.dim)
    with pytest.raises(ValueError, match=sentence):
        collect(SlotMemory(world(), alike, frames=2), tmp_path / "none", "goal", 40, players=[reader], length=10)


def test_games_have_no_masks(tmp_path: Path) -> None:
    pytest.importorskip("envpool")
    game = ProcgenWorld("fruitbot", 2)
    with pytest.raises(ValueError, match=r"fields needs \['segmentation'\], which ProcgenWorld cannot show"):
        collect(game, tmp_path, "fruitbot", 10, fields=("images", "segmentation"))
    with pytest.raises(ValueError, match=r"OracleObjects needs \['objects'\]"):
        collect(game, tmp_path, "fruitbot", 10, OracleObjects(5, {"position": 2}, {}))
    game.close()

"""Segments as slots in front of an agent: trained, evaluated and extracted by class path, as any other encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import ocl.cli
import rl_probes.cli
from ocl.data.sprite_scenes import SpriteScenes
from ocl.masks.apply import GreyCrop
from ocl.masks.sources import Grid, TrueMasks
from ocl.representations import MaskedObjectEncoder, RandomCNN, SlotMean
from ocl.shapes import Batch
from ocl.store import FeatureStore
from rl_probes.envs.sprite_world import SpriteWorld
from rl_probes.envs.tasks import ObjectComparison
from rl_probes.envs.vector import FrozenFeatureVecEnv
from rl_probes.observation import Observer, Standardisation
from rl_probes.runs import read_run

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["--world.init_args.num_envs=8", "--ppo.n_steps=16", "--ppo.batch_size=64", "--total_steps=256"]


def encoder_of(config: str) -> dict[str, Any]:
    node = yaml.safe_load((ROOT / "configs" / config).read_text())["encoder"]
    assert isinstance(node, dict)
    return node


def test_an_agent_is_built_again_and_evaluated(tmp_path: Path) -> None:
    config = ROOT / "configs" / "rl" / "object_comparison_true_masks.yaml"
    rl_probes.cli.main(["ppo", "--config", str(config), f"--folder={tmp_path}", *SHORT])
    random, trained = rl_probes.cli.main(["evaluate", f"--runs=['{tmp_path}']", "--episodes=4"])
    assert random.name == "random"
    assert trained.name == "MaskedObjectEncoder"
    assert len(trained.episodes.returns) == 4


def test_a_run_on_the_packaged_slots_is_built_again(tmp_path: Path) -> None:
    config = ROOT / "configs" / "rl" / "object_comparison_slot_masks.yaml"
    (tmp_path / "config.yaml").write_text(config.read_text())
    first, second = read_run(tmp_path), read_run(tmp_path)
    assert first.encoder.requires == {"images"}
    assert first.encoder.fingerprint == second.encoder.fingerprint
    slots = first.encoder(first.world.observe(first.encoder.requires))
    assert slots.vectors.shape == (32, 7, 32 + 5)
    assert slots.valid.any(1).all()


@pytest.mark.parametrize("source", ["true", "slot"])
def test_segments_go_into_a_feature_store(source: str, tmp_path: Path) -> None:
    config = tmp_path / "extract.yaml"
    encoder = encoder_of(f"probe/sprites_{source}_masks.yaml")
    scenes = {"class_path": "ocl.data.sprite_scenes.SpriteScenes", "init_args": {"size": 20, "seed": 3}}
    config.write_text(yaml.safe_dump({"encoder": encoder, "dataset": scenes, "folder": str(tmp_path / "store")}))
    ocl.cli.main(["extract", "--config", str(config), "--masks=true"])
    records = FeatureStore(tmp_path / "store").read_all()
    assert records["vectors"].shape == (20, encoder["init_args"]["num_slots"], 64 + 5)
    assert records["valid"].any(1).all()
    assert records["masks"].shape[-2:] == (64, 64)


def true_masks() -> MaskedObjectEncoder:
    return MaskedObjectEncoder(TrueMasks(), GreyCrop(16), SlotMean(RandomCNN((16, 16), 8)), 5, geometry=True)


def test_the_world_gives_exact_segments() -> None:
    world = SpriteWorld(ObjectComparison(4), num_envs=6, seed=0)
    encoder = true_masks()
    env = FrozenFeatureVecEnv(world, Observer(encoder, Standardisation.identity(encoder.dim)))
    observations = env.reset()
    assert observations.shape == (6, 5, 8 + 5 + 1)
    batch = world.observe(frozenset({"images", "segmentation", "objects"}))
    slots = encoder(batch)
    assert slots.valid.all()
    assert slots.masks is not None
    assert batch.segmentation is not None
    for number in range(5):
        assert torch.equal(slots.masks[:, number] > 0, batch.segmentation == number + 1)
    # The mean place of a sprite's pixels is near its centre, in the order of the world's own list.
    off = (slots.vectors[..., 8:10] - batch.objects["position"]).abs()
    assert off[batch.objects["is_agent"] == 1].max() < 0.02
    assert off.max() < 0.12, "partly hidden or asymmetric sprites"
    np.testing.assert_allclose(observations[..., :13], slots.vectors.numpy(), rtol=1e-4, atol=1e-5)


def test_a_world_without_segments_is_refused() -> None:
    class Blind(SpriteWorld):
        fields = frozenset({"images"})

    world = Blind(ObjectComparison(4), num_envs=2)
    encoder = true_masks()
    with pytest.raises(ValueError, match=r"requires \['segmentation'\]"):
        FrozenFeatureVecEnv(world, Observer(encoder, Standardisation.identity(encoder.dim)))
    blind = MaskedObjectEncoder(Grid(2, 2), GreyCrop(16), SlotMean(RandomCNN((16, 16), 8)), 4)
    FrozenFeatureVecEnv(world, Observer(blind, Standardisation.identity(blind.dim))).reset()


def test_colours_are_read_from_true_segments() -> None:
    """Nearest neighbours among other scenes' segments have the same colour."""
    items = [SpriteScenes(60, seed=5)[index] for index in range(60)]
    names = ("images", "segmentation", "color")
    images, segmentation, colors = (torch.stack([item[name] for item in items]) for name in names)
    encoder = MaskedObjectEncoder(TrueMasks(), GreyCrop(16), SlotMean(RandomCNN((16, 16), 16)), 5)
    slots = encoder(Batch(images, segmentation.long()))
    assert slots.valid.all()
    vectors, labels = slots.vectors.flatten(0, 1), colors.flatten()
    distance = torch.cdist(vectors[:150], vectors[150:])
    assert (labels[150:][distance.argmin(1)] == labels[:150]).float().mean() > 0.9

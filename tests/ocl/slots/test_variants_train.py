"""Starts, groupings and selections combine in a config, train, go on where they stopped, and are exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ocl import checkpoints
from ocl.fit import run
from ocl.shapes import Batch

STEPS = 6


def node(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


def scenes(seed: int) -> dict[str, Any]:
    sizes = {"size": 64, "block": 8, "image_size": 32, "num_objects": [1, 4], "separation": 0.0}
    sprites = node("ocl.data.sprite_scenes.SpriteScenes", seed=seed, **sizes)
    return node("ocl.data.boxes.WithBoxes", dataset=sprites)


RANDOM = node("ocl.slots.initial.RandomSlots", num_slots=5, dim=16)
BOXES = node("ocl.slots.hinted.BoxSlots", num_slots=5, dim=16, missing=RANDOM)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "noisy queries, bi-level, selected": (
        {
            "initial_slots": node("ocl.slots.initial.NoisyLearnedSlots", num_slots=5, dim=16, noise_steps=4),
            "grouping": node("ocl.slots.attention.SlotAttention", dim=16, hidden_dim=16, gradient="bilevel"),
            "selection": node("ocl.slots.selection.SlotSelection", dim=16),
        },
        node("ocl.losses.sparsity.KeepCost"),
    ),
    "boxes, pre-heated, invariant": (
        {
            "initial_slots": node("ocl.slots.preheated.PreheatedSlots", queries=BOXES, total_steps=40),
            "grouping": node("ocl.slots.invariant.InvariantSlotAttention", dim=16, hidden_dim=16, scale=True),
        },
        node("ocl.losses.preheat.PreheatLoss"),
    ),
}


def fit(root: Path, name: str, steps: int) -> dict[str, torch.Tensor]:
    parts, loss = VARIANTS[name]
    encoder = node("ocl.encoders.cnn.CNNEncoder", image_size=[32, 32], dim=16, channels=8, strides=[2, 2])
    decoder = node("ocl.decoders.patch.PatchDecoder", dim=16, grid=[8, 8], patch=4, hidden_dim=16)
    settings = {
        "seed_everything": 3,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "max_steps": steps,
            "val_check_interval": 3,
            "limit_val_batches": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "model": {
            "model": node("ocl.model.ObjectCentricModel", encoder=encoder, decoder=decoder, **parts),
            "losses": {"reconstruction": node("ocl.losses.reconstruction.PixelReconstruction"), "own": loss},
            "schedule": node("ocl.schedules.WarmupCosine", total_steps=STEPS),
            "learning_rate": 1e-3,
        },
        "data": {"train": scenes(0), "val": scenes(1), "batch_size": 8},
        "checkpoint_every": 3,
        "pictures": 0,
    }
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(settings))
    run(["fit", "--config", str(path)])
    return checkpoints.load(root / "model").state_dict()


@pytest.mark.parametrize("name", VARIANTS)
def test_trains_resumes_exactly_and_is_exported(name: str, tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", name, STEPS)
    started = fit(tmp_path / "parts", name, 3)
    resumed = fit(tmp_path / "parts", name, STEPS)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert [int(weights["initial_slots.step"]) for weights in (started, resumed)] == [3, STEPS]
    own = {key for key in whole if key.startswith(("initial_slots", "grouping", "selection"))}
    still = {key for key in own if torch.equal(started[key], whole[key])}
    assert not still, "training leaves these as they were"

    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    encoder = checkpoints.load_encoder(tmp_path / "whole" / "model")
    slots, again = encoder(Batch(images)), encoder(Batch(images))
    assert torch.equal(slots.vectors, again.vectors)
    assert torch.isfinite(slots.vectors).all()
    assert slots.valid.any(dim=1).all()

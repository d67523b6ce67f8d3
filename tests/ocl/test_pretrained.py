"""The checkpoint that travels with the package does what its card says."""

from __future__ import annotations

import re

from torch.utils.data import DataLoader

import ocl
from ocl.data.collate import collate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.discover import discover
from ocl.representations import FrozenSlotModel


def test_it_is_small_and_loads_by_name() -> None:
    encoder = ocl.load("sprites")
    assert (encoder.num_slots, encoder.dim) == (7, 64)
    assert sum(path.stat().st_size for path in (ocl.PRETRAINED / "sprites").iterdir()) < 5e6


def test_its_masks_are_as_good_as_its_card_says() -> None:
    card = (ocl.PRETRAINED / "sprites" / "README.md").read_text()
    encoder = ocl.load("sprites")
    assert isinstance(encoder, FrozenSlotModel)
    decoding = FrozenSlotModel(encoder.model, decoder_masks=True)
    rows = discover({"slots": decoding}, DataLoader(SpriteScenes(256, seed=2000), 64, collate_fn=collate))
    found = {row["measure"]: row for row in rows if row["name"] == "slots"}
    for measure in ("foreground_ari", "mean_iou", "ari"):
        stated = re.search(rf"\| {measure.replace('_', ' ')} \| ([\d.]+) \[", card)
        assert stated is not None
        # Other scenes than the card's: its figure lies within twice the interval of these 256.
        row = found[measure]
        assert abs(row["value"] - float(stated[1])) < row["high"] - row["low"]

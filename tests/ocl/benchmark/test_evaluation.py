"""The evaluation of a model that knows the answer, and of one that knows nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ocl.benchmark.evaluation import MEASURES, PICTURED, evaluate
from ocl.data.sprite_scenes import SpriteScenes
from ocl.metrics.protocols import CLASSIC
from ocl.shapes import Decoded, Features, Output, Slots

SCENES = SpriteScenes(70, seed=3, image_size=32, num_objects=(2, 3))


class Answers(nn.Module):
    """Gives the true masks of SCENES in order, as decoder masks; the attention is that of `shares` over four slots."""

    def __init__(self, shares: list[float]) -> None:
        super().__init__()
        self.shares = torch.tensor(shares)
        self.batches: Iterator[Tensor] = torch.stack([item["segmentation"] for item in SCENES]).split(32)  # type: ignore
        self.batches = iter(self.batches)

    def forward(self, images: Tensor) -> Output:
        truth = next(self.batches)[: len(images)].long()
        masks = nn.functional.one_hot(truth, 4).movedim(-1, 1).float()
        attention = self.shares[:, None, None].expand(len(images), 4, 8, 8)
        features = Features(torch.zeros(len(images), 64, 4), (8, 8))
        vectors = torch.zeros(len(images), 4, 4)
        decoded = Decoded(images * 2 - 1, masks)
        return Output(features, features, vectors, Slots.of(vectors, attention), decoded)


def test_true_masks_score_one() -> None:
    found, picture = evaluate(Answers([0.4, 0.4, 0.2, 0.0]), SCENES, CLASSIC, images=70)
    assert tuple(found) == MEASURES
    for measure in ("ari", "foreground_ari", "mean_best_overlap", "mean_iou", "corloc", "panoptic_quality"):
        assert found[measure] == pytest.approx(1)
    assert found["attention_active_slots"] == 3
    assert found["attention_components"] == 1
    assert found["attention_salt_and_pepper"] == 0
    assert found["attention_duplicate_pairs"] == pytest.approx(3 / 6)  # a map of zeros is nobody's double
    assert found["decoder_duplicate_pairs"] == 0
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, PICTURED * (32 + 2) + 2, (3 + 4) * (32 + 2) + 2)


class Guesses(nn.Module):
    """Random masks from torch's generator."""

    def forward(self, images: Tensor) -> Output:
        masks = torch.rand(len(images), 4, 8, 8).softmax(1)
        features, vectors = Features(torch.zeros(len(images), 64, 4), (8, 8)), torch.zeros(len(images), 4, 4)
        return Output(features, features, vectors, Slots.of(vectors), Decoded(images, masks))


def test_it_is_reproducible_and_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, _ = evaluate(Guesses(), SCENES, CLASSIC, images=40)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert evaluate(Guesses(), SCENES, CLASSIC, images=40)[0] == first
    assert evaluate(Guesses(), SCENES, CLASSIC, images=41)[0] != first
    assert first["attention_components"] is None


class Bare(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": torch.zeros(3, 32, 32, dtype=torch.uint8)}


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="with a true segmentation"):
        evaluate(Guesses(), Bare(), CLASSIC)
    with pytest.raises(ValueError, match="at least one image"):
        evaluate(Guesses(), SCENES, CLASSIC, images=0)

"""Controls against hand-made answers, and what photographs and people say on BSDS500."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ocl.binding.controls import LogisticControl, all_different, by_labels, colour_distances, mean_colours, permuted
from ocl.binding.labels import patch_labels
from ocl.binding.measures import pair_measures
from ocl.binding.pairs import distances, places_of, sample_patches
from ocl.binding.patches import Patches, distinct_pairs
from ocl.data.bsds500 import read_segmentations
from ocl.data.images import read_image
from ocl.metrics.image_mean import PerImage


def test_equal_labels_are_one_object_and_unknown_ones_are_none() -> None:
    said = by_labels(torch.tensor([[3, 3, 5, -1, -1]]))
    assert said[0, 0].tolist() == [1, 1, -1, -1, -1]
    assert said[0, 3].tolist() == [-1] * 5
    assert all_different(torch.zeros(2, 5)).unique().tolist() == [-1]


def test_colours_are_means_of_patches_in_raster_order() -> None:
    images = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    colours = mean_colours(images, 16)
    assert colours.shape == (2, 6, 3)
    patch = images[1, :, 16:32, 32:48].float() / 255  # row 1, column 2
    torch.testing.assert_close(colours[1, 5], patch.mean((1, 2)))
    apart = colour_distances(colours)
    torch.testing.assert_close(apart[0, 1, 4], (colours[0, 1] - colours[0, 4]).norm())
    assert not apart.diagonal(dim1=1, dim2=2).any()
    with pytest.raises(ValueError, match="cannot be cut into patches of 14 pixels"):
        mean_colours(images, 14)


def test_permuting_keeps_each_images_tokens_and_all_layers_together() -> None:
    tokens = torch.arange(5 * 40.0).view(1, 5, 40, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    moved = permuted(tokens, torch.Generator().manual_seed(0))
    assert torch.equal(moved[0].sort(1).values, tokens[0])
    assert torch.equal(moved[1], -moved[0])
    assert ((moved == tokens).float().mean((2, 3)) < 0.2).all()
    assert len({tuple(order.flatten().tolist()) for order in moved[0] - moved[0].amin(1, keepdim=True)}) == 5


def test_a_logistic_control_finds_the_planted_weights() -> None:
    features = torch.randn(30, 20, 20, 2)
    features = features + features.transpose(1, 2)
    logits = 1.5 * features[..., 0] - 0.5 * features[..., 1] - 1
    drawn = torch.rand(30, 20, 20).triu(1)
    same = (drawn + drawn.mT) < logits.sigmoid()
    objects = torch.zeros(30, 20, dtype=torch.int64)
    control = LogisticControl().fit(features, same, distinct_pairs(Patches(torch.zeros(1, 30, 20, 1), objects)))
    found = control(features)
    assert found.shape == (30, 20, 20)
    assert (found - logits).abs().mean() < 0.15
    with pytest.raises(ValueError, match="all of one kind"):
        LogisticControl().fit(features, torch.ones_like(same), same)


class Photographs:
    """64 random patches of 16 pixels of every photograph of a split, once for every person who segmented it."""

    def __init__(self, folder: Path, split: str, every: int = 1, patch: int = 16) -> None:
        labels, colours, places, photograph = [], [], [], []
        for number, path in enumerate(sorted((folder / "images" / split).glob("*.jpg"))[::every]):
            image = torch.from_numpy(np.array(read_image(path))).permute(2, 0, 1)
            maps = np.stack(read_segmentations(folder / "groundTruth" / split / f"{path.stem}.mat"))
            height, width = maps.shape[1] // patch * patch, maps.shape[2] // patch * patch
            grid = (height // patch, width // patch)
            people = patch_labels(torch.from_numpy(maps[:, :height, :width].astype(np.int64)), grid).labels
            chosen = sample_patches(people[:1], 64, [number])[0]
            count = len(people)
            labels.append(people[:, chosen])
            colours.append(mean_colours(image[None, :, :height, :width], patch)[0, chosen].expand(count, -1, -1))
            places.append(places_of(chosen, grid).expand(count, -1, -1))
            photograph += [number] * count
        self.people = labels
        self.photograph = torch.tensor(photograph)
        self.patches = Patches(torch.cat(colours)[None], torch.cat(labels), None, torch.cat(places))

    @property
    def features(self) -> Tensor:
        """(B n n 2): distance in patches, distance of mean colours."""
        return torch.stack([distances(self.patches), colour_distances(self.patches.tokens[0])], dim=-1)

    @staticmethod
    def mean(measure: PerImage, photograph: Tensor) -> float:
        """Over the people of a photograph first, then over photographs."""
        count = torch.zeros(int(photograph.max()) + 1, dtype=torch.float64)
        total = torch.zeros_like(count).index_add_(0, photograph, measure.values * measure.counted)
        count.index_add_(0, photograph, measure.counted.double())
        return float((total / count)[count > 0].mean())

    def scores(self, logits: Tensor) -> tuple[float, float]:
        """Accuracy and AUC."""
        found = pair_measures(logits, self.patches.same, distinct_pairs(self.patches))
        return self.mean(found["accuracy"], self.photograph), self.mean(found["auc"], self.photograph)


def test_what_place_colour_and_people_know_of_photographs(test_data: Path) -> None:
    """BSDS500, fitted on a third of train, scored on val, 16 pixels.

    An earlier run on the test split, fitted on half of it, had 0.730 for all different, 0.746 for distance, 0.751 for
    colour and 0.774 / AUC 0.770 for both, and 0.877 / 0.864 for people against people. Photographs of val have fewer
    different pairs (0.688), which moves every accuracy: what can be compared is the gain on all different.
    """
    training, test = Photographs(test_data / "BSDS500", "train", every=3), Photographs(test_data / "BSDS500", "val")
    assert int(test.photograph.max()) + 1 == 100
    baseline, area = test.scores(all_different(test.patches.objects))
    assert abs(baseline - 0.707) <= 0.02
    assert area == 0.5
    known, asked = training.features, test.features
    counted = distinct_pairs(training.patches)
    expected = {(0,): 0.746 - 0.730, (1,): 0.751 - 0.730, (0, 1): 0.774 - 0.730}
    areas = []
    for columns, gain in expected.items():
        control = LogisticControl()
        control.fit(known[..., list(columns)], training.patches.same, counted)
        accuracy, area = test.scores(control(asked[..., list(columns)]))
        assert abs(accuracy - baseline - gain) <= 0.02
        areas.append(area)
    assert abs(areas[2] - 0.770) <= 0.02
    assert areas[2] > max(areas[:2]) + 0.02

    pairs = [
        (people[one], people[other], number)
        for number, people in enumerate(test.people)
        for one in range(len(people))
        for other in range(len(people))
        if one != other
    ]
    own, others = torch.stack([one for one, _, _ in pairs]), torch.stack([other for _, other, _ in pairs])
    drawn = Patches(torch.zeros(1, *own.shape, 1), own)
    found = pair_measures(by_labels(others), drawn.same, distinct_pairs(drawn))
    photograph = torch.tensor([number for _, _, number in pairs])
    assert abs(test.mean(found["accuracy"], photograph) - 0.877) <= 0.02
    assert abs(test.mean(found["balanced_accuracy"], photograph) - 0.864) <= 0.02

"""Slots from pairs of patches: planted objects come back, as scikit-learn groups them too."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import spectral_clustering
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

from ocl import checkpoints
from ocl.binding.clusters import ConnectedGroups, SpectralGroups, by_size
from ocl.binding.probes import Cosine, Quadratic
from ocl.data.collate import collate
from ocl.data.twin_scenes import TwinScenes
from ocl.metrics.segmentation import segmentation_measures
from ocl.representations import BindingSlots, CosineSimilarity
from ocl.shapes import Batch, Features


def planted(seed: int, objects: int = 4) -> tuple[Tensor, Tensor]:
    """Groups (n) of 8, 12, 16 ... patches in any order, and noisy probabilities (n n): 0.9 inside, 0.05 across."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(objects).repeat_interleave(8 + 4 * torch.arange(objects))
    patches = len(groups)
    groups = groups[torch.randperm(patches, generator=generator)]
    noise = torch.rand(patches, patches, generator=generator) * 0.1
    same = groups[:, None] == groups
    probabilities = torch.where(same, 0.9, 0.05) + (noise + noise.T) / 2 - 0.05
    return groups, probabilities


@pytest.mark.parametrize("objects", [2, 3, 4])
def test_the_eigengap_finds_planted_objects_and_their_number(objects: int) -> None:
    scenes = [planted(seed, objects=objects) for seed in range(8)]
    found = SpectralGroups(8)(torch.stack([same for _, same in scenes]))
    for (groups, _), labels in zip(scenes, found, strict=True):
        assert adjusted_rand_score(groups, labels) == 1
        assert torch.equal(labels.bincount(), groups.bincount().sort(descending=True).values)


def test_a_fixed_number_is_kept_and_agrees_with_scikit_learn() -> None:
    groups, same = planted(0, objects=3)
    labels = SpectralGroups(3, fixed=True)(same[None])[0]
    theirs = spectral_clustering(same.fill_diagonal_(1).numpy(), n_clusters=3, random_state=0)
    assert adjusted_rand_score(theirs, labels) == 1
    assert SpectralGroups(6, fixed=True)(same[None]).max() == 5, "splits where it must"
    assert adjusted_rand_score(groups, labels) == 1


def test_separate_parts_are_groups_of_their_own() -> None:
    groups, _ = planted(1, objects=4)
    same = (groups[:, None] == groups).float()
    for find in (SpectralGroups(6), ConnectedGroups(6)):
        assert adjusted_rand_score(groups, find(same[None])[0]) == 1
    assert not SpectralGroups(6)(torch.ones(1, 10, 10)).any(), "one object"


def test_connected_groups_follow_chains_and_leave_out_small_ones() -> None:
    same = torch.zeros(6, 6)
    for a, b, value in ((0, 1, 0.9), (1, 2, 0.6), (2, 3, 0.5), (3, 4, 0.7)):
        same[a, b] = same[b, a] = value
    assert ConnectedGroups(3)(same[None]).tolist() == [[0, 0, 0, 1, 1, 2]]
    assert ConnectedGroups(2)(same[None]).tolist() == [[0, 0, 0, 1, 1, -1]]
    assert ConnectedGroups(3, least=3)(same[None]).tolist() == [[0, 0, 0, -1, -1, -1]]
    assert ConnectedGroups(3, threshold=0.45)(same[None]).tolist() == [[0, 0, 0, 0, 0, 1]]


def test_groups_are_numbered_by_size() -> None:
    assert by_size(torch.tensor([[0, 1, 1, 2, 2], [3, 3, 3, 0, 1]]), 2).tolist() == [[-1, 0, 0, 1, 1], [0, 0, 0, 1, -1]]


class Colors(nn.Module):
    """An encoder whose tokens are the true objects' codes plus noise: what perfect binding would look like."""

    image_size, grid, dim = (64, 64), (8, 8), 16

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.linalg.qr(torch.randn(16, 16)).Q)
        self.labels = torch.zeros(1, 8, 8, dtype=torch.long)

    def forward(self, images: Tensor) -> Features:
        tokens = self.codes[self.labels.flatten(1)]
        return Features(tokens + 0.05 * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0)), (8, 8))


def scene() -> tuple[Colors, Batch]:
    batch = collate(TwinScenes(6).__getitems__(range(6)))
    assert batch.segmentation is not None
    encoder = Colors()
    encoder.labels = batch.segmentation[:, 4::8, 4::8]
    return encoder, batch


@pytest.mark.parametrize("groups", [SpectralGroups(8), ConnectedGroups(8)])
def test_slots_are_the_means_of_planted_objects(groups: SpectralGroups | ConnectedGroups) -> None:
    encoder, batch = scene()
    probe = Cosine(16)
    with torch.no_grad():
        probe.scale.fill_(20)
        probe.bias.fill_(-10)
    slots = BindingSlots(encoder, probe, groups)(batch)
    assert slots.vectors.shape == (6, 8, 16)
    assert slots.masks is not None
    assert slots.masks.shape == (6, 8, 8, 8)
    tokens = encoder(batch.images).tokens
    for image in range(6):
        present = encoder.labels[image].unique()
        assert int(slots.valid[image].sum()) == len(present)
        assert torch.equal(slots.masks[image].sum(0), torch.ones(8, 8))
        for label in present.tolist():
            member = encoder.labels[image] == label
            index = int(slots.masks[image][:, member].sum(1).argmax())
            assert torch.equal(slots.masks[image, index].bool(), member)
            torch.testing.assert_close(slots.vectors[image, index], tokens[image, member.flatten()].mean(0))
    assert not slots.vectors[~slots.valid].any()
    assert batch.segmentation is not None
    truth = (encoder.labels.unsqueeze(1) == torch.arange(6).view(-1, 1, 1)).float()
    found = segmentation_measures(slots.masks, batch.segmentation, slots.valid, False)
    best = segmentation_measures(truth, batch.segmentation, truth.flatten(2).any(-1), False)
    torch.testing.assert_close(found["foreground_ari"].values, best["foreground_ari"].values)


def test_cosines_do_not_see_what_all_tokens_share() -> None:
    tokens = torch.randn(1, 2, 9, 16)
    probe = CosineSimilarity(threshold=0.3, temperature=0.1)
    torch.testing.assert_close(probe(tokens + 50), probe(tokens), atol=1e-3, rtol=0)
    centred = (tokens - tokens.mean(2, keepdim=True))[0, 1]
    expected = (torch.cosine_similarity(centred[3], centred[5], dim=0) - 0.3) / 0.1
    torch.testing.assert_close(probe(tokens)[0, 1, 3, 5], expected)


def test_a_fitted_probe_takes_the_place_of_the_cosine() -> None:
    encoder, batch = scene()
    probe = Quadratic(16)
    with torch.no_grad():
        form = probe.matrix()
        for parameter in probe.parameters():
            parameter.zero_()
    assert form.shape == (1, 16, 16)
    assert (probe(torch.randn(1, 2, 5, 16)) == 0).all()
    slots = BindingSlots(encoder, probe, SpectralGroups(4))(batch)
    assert slots.valid.sum(1).tolist() == [1] * 6, "a probe that cannot tell finds one object"
    with pytest.raises(ValueError, match="one layer"):
        BindingSlots(encoder, Quadratic(16, layers=3))
    with pytest.raises(ValueError, match="the probe reads tokens of width 8, the encoder gives 16"):
        BindingSlots(encoder, Quadratic(8))


def test_it_is_frozen_fingerprinted_and_stored(tmp_path) -> None:
    vit = {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
    arguments = {"name": "vit_tiny_patch16_224", "image_size": [64, 64], "pretrained": False, "arguments": vit}
    tree = {
        "class_path": "ocl.representations.binding_slots.BindingSlots",
        "init_args": {
            "encoder": {"class_path": "ocl.encoders.vit.ViTEncoder", "init_args": arguments},
            "probe": {"class_path": "ocl.binding.probes.Quadratic", "init_args": {"dim": 48}},
            "groups": {"class_path": "ocl.binding.clusters.SpectralGroups", "init_args": {"num_groups": 5}},
        },
    }
    encoder = checkpoints.instantiate(tree)
    checkpoints.save(tree, encoder, tmp_path)
    loaded = checkpoints.load_encoder(tmp_path)
    assert isinstance(encoder, BindingSlots)
    assert loaded.fingerprint == encoder.fingerprint
    _, batch = scene()
    one, two = encoder(batch), loaded(batch)
    assert torch.equal(one.vectors, two.vectors)
    assert not one.vectors.requires_grad
    encoder.groups.fixed = True
    assert loaded.fingerprint != encoder.fingerprint


@pytest.mark.parametrize("same", [torch.ones(2, 3), torch.full((1, 3, 3), 2.0), torch.full((1, 3, 3), torch.nan)])
def test_what_is_no_probability_of_pairs_is_refused(same: Tensor) -> None:
    with pytest.raises(ValueError, match="probabilities of pairs"):
        ConnectedGroups(2)(same)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_groups"):
        SpectralGroups(0)
    with pytest.raises(ValueError, match="threshold"):
        ConnectedGroups(2, threshold=1.0)
    with pytest.raises(ValueError, match="temperature"):
        CosineSimilarity(temperature=0.0)
    with pytest.raises(ValueError, match="more patches"):
        SpectralGroups(8)(torch.ones(1, 8, 8))

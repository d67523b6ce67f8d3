"""Pooling: order does not matter, padding does not matter, any number of slots."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rl_probes.observation import pack, unpack
from rl_probes.pooling import DeepSetPooling, FlattenPooling, Pooling, TransformerPooling
from rl_probes.relations import RelationPooling

SETS = [
    partial(DeepSetPooling, width=128),
    partial(TransformerPooling, width=128, layers=3),
    partial(RelationPooling, width=128, layers=3),
]


def space(num_slots: int, dim: int = 64) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (num_slots, dim + 1), np.float32)


def build(pooling, num_slots: int = 7) -> Pooling:
    torch.manual_seed(0)
    built = pooling(space(num_slots))
    for parameter in built.parameters():  # away from special initial values such as a zero class token
        torch.nn.init.normal_(parameter, std=0.1)
    return built


def some_slots(num_slots: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(32, num_slots, 64, generator=generator)
    valid = torch.rand(32, num_slots, generator=generator) < 0.7
    valid[:, 0] = True
    valid[0] = True
    return vectors, valid


@pytest.mark.parametrize("pooling", SETS)
@torch.no_grad()
def test_set_pooling_ignores_order_and_padding(pooling):
    built = build(pooling)
    vectors, valid = some_slots()
    pooled = built(pack(vectors, valid))
    assert pooled.shape == (32, 128)
    assert pooled.std() > 0.01

    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(built(pack(vectors[:, order], valid[:, order])), pooled, atol=1e-5, rtol=0)

    changed = vectors.masked_fill(~valid.unsqueeze(-1), 1e4)
    torch.testing.assert_close(built(pack(changed, valid)), pooled, atol=1e-5, rtol=0)
    # Not even where the padding reaches the pooling unmasked.
    for garbage in (1e4, float("nan"), float("inf")):
        changed = vectors.masked_fill(~valid.unsqueeze(-1), garbage)
        unmasked = torch.cat([changed, valid.unsqueeze(-1).float()], dim=-1)
        torch.testing.assert_close(built(unmasked), pooled, atol=1e-5, rtol=0)

    other = vectors.clone()
    other[:, 0] += 1.0  # but a valid slot does count
    assert (built(pack(other, valid)) - pooled).abs().amax(dim=1).min() > 1e-3


@pytest.mark.parametrize("pooling", SETS)
@torch.no_grad()
def test_set_pooling_accepts_another_number_of_slots(pooling):
    small, large = build(pooling, 4), build(pooling, 11)
    large.load_state_dict(small.state_dict())
    vectors, valid = some_slots(4)
    wide = torch.cat([vectors, torch.zeros(32, 7, 64)], dim=1)
    wide_valid = torch.cat([valid, torch.zeros(32, 7, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(large(pack(wide, wide_valid)), small(pack(vectors, valid)), atol=1e-5, rtol=0)


@torch.no_grad()
def test_deep_set_is_the_maximum_over_single_slots():
    built = build(SETS[0])
    vectors, _ = some_slots()
    everything = built(pack(vectors, torch.ones(32, 7, dtype=torch.bool)))
    single = torch.stack([built(pack(vectors[:, k : k + 1], torch.ones(32, 1, dtype=torch.bool))) for k in range(7)])
    torch.testing.assert_close(everything, single.amax(dim=0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("pooling", SETS)
@torch.no_grad()
def test_no_valid_slot_is_finite(pooling):
    vectors, valid = some_slots()
    assert build(pooling)(pack(vectors, torch.zeros_like(valid))).isfinite().all()


@pytest.mark.parametrize("pooling", [*SETS, partial(FlattenPooling, width=128)])
@torch.no_grad()
def test_training_mode_changes_nothing(pooling):
    built = build(pooling)
    observations = pack(*some_slots())
    torch.testing.assert_close(built.train()(observations), built.eval()(observations), atol=1e-6, rtol=0)


@torch.no_grad()
def test_flatten_sees_order():
    built = build(FlattenPooling)
    vectors, valid = some_slots()
    assert (built(pack(vectors.flip(1), valid.flip(1))) - built(pack(vectors, valid))).abs().max() > 1e-2


def test_pack_and_unpack_are_inverse():
    vectors, valid = some_slots()
    unpacked, unpacked_valid = unpack(pack(vectors, valid))
    torch.testing.assert_close(unpacked, vectors * valid.unsqueeze(-1), atol=0, rtol=0)
    torch.testing.assert_close(unpacked_valid, valid)
    assert pack(vectors.fill_(torch.nan), valid)[~valid].isfinite().all()


def test_wrong_space_is_refused():
    with pytest.raises(ValueError, match=r"\(K, D \+ 1\)"):
        DeepSetPooling(spaces.Box(0, 255, (3, 64, 64), np.uint8))


@torch.no_grad()
def test_relations_are_the_maximum_over_pairs_of_one_network():
    """Against g on concatenated pairs, one after the other."""
    built = build(partial(RelationPooling, width=32), 5)
    vectors, valid = some_slots(5)
    joint = torch.nn.Linear(128, 32)
    joint.weight.copy_(torch.cat([built.first.weight, built.second.weight], dim=1))
    joint.bias.copy_(built.first.bias)
    expected = torch.zeros(32, 32)
    for image in range(32):
        for i in range(5):
            for j in range(5):
                if valid[image, i] and valid[image, j]:
                    pair = built.relate(joint(torch.cat([vectors[image, i], vectors[image, j]])))
                    expected[image] = torch.maximum(expected[image], pair)
    torch.testing.assert_close(built(pack(vectors, valid)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_relations_tell_who_goes_with_whom():
    """Sets of the same single slots in two images are told from one another only by what the pairs say."""
    built = build(partial(RelationPooling, width=128))
    vectors, _ = some_slots()
    every = torch.ones(32, 7, dtype=torch.bool)
    whole = built(pack(vectors, every))
    alone = torch.stack([built(pack(vectors[:, k : k + 1], every[:, :1])) for k in range(7)]).amax(dim=0)
    assert (whole >= alone - 1e-5).all()
    assert (whole - alone).amax(dim=1).min() > 0.1
    with pytest.raises(ValueError, match="at least 2 layers"):
        RelationPooling(space(4), layers=1)


@pytest.mark.parametrize(
    "pooling",
    [
        partial(DeepSetPooling, width=0),
        partial(DeepSetPooling, layers=0),
        partial(FlattenPooling, width=-1),
        partial(TransformerPooling, layers=0),
        partial(TransformerPooling, width=10, heads=3),
    ],
)
def test_sizes_that_make_no_network_are_refused(pooling):
    with pytest.raises(ValueError, match=r"at least 1|share the width"):
        pooling(space(5))

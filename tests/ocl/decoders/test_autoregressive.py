"""The autoregressive decoder against a plain transcription, its causality, its orders and its cached generation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ocl.decoders.autoregressive import AutoregressiveDecoder
from ocl.decoders.causal import Attention
from ocl.decoders.orders import inverse_orders, patch_orders
from ocl.encoders.cnn import CNNEncoder
from ocl.losses.reconstruction import FeatureReconstruction
from ocl.model import ObjectCentricModel
from ocl.shapes import Batch, Features, Grouped, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots

B, K, D, WIDTH, HEADS, GRID = 2, 5, 12, 24, 3, (3, 4)
N = GRID[0] * GRID[1]


def decoder_of(**switches: bool) -> AutoregressiveDecoder:
    return AutoregressiveDecoder(D, WIDTH, GRID, 3, HEADS, **switches).double()


def grouped(seed: int = 0, valid: Tensor | None = None) -> Grouped:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, N, WIDTH, generator=generator, dtype=torch.float64)
    slots = Slots.of(torch.randn(B, K, D, generator=generator, dtype=torch.float64))
    slots.valid = slots.valid if valid is None else valid
    features = Features(tokens, GRID)
    return Grouped(features, features, slots.vectors, slots)


def plain_attention(part: Attention, queries: Tensor, read: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Head by head; allowed (B, queries, read). Returns the update and the weights averaged over heads."""
    updates, maps = [], []
    width = WIDTH // HEADS
    for head in range(HEADS):
        rows = slice(head * width, (head + 1) * width)
        query, key, value = (
            x @ layer.weight[rows].T for x, layer in ((queries, part.query), (read, part.key), (read, part.value))
        )
        logits = (query @ key.mT / width**0.5).masked_fill(~allowed, -torch.inf)
        maps.append(logits.softmax(-1))
        updates.append(maps[-1] @ value)
    return torch.cat(updates, -1) @ part.output.weight.T, torch.stack(maps).mean(0)


def plain(decoder: AutoregressiveDecoder, group: Grouped, order: int) -> tuple[Tensor, Tensor]:
    """SPOT's decoder as it is written down: order, shift, project, blocks, order back."""
    permutation = decoder.orders[order]
    tokens = group.features.tokens[:, permutation]
    x = decoder.project_tokens(torch.cat([decoder.start[order].expand(B, 1, -1), tokens[:, :-1]], 1))
    slots = decoder.project_slots(group.slots.vectors)
    earlier = torch.ones(N, N, dtype=torch.bool).tril().expand(B, -1, -1)
    valid = group.slots.valid[:, None].expand(B, N, K)
    for number, block in enumerate(decoder.blocks):
        normed = block.norm_self(x)
        x = (normed if number == 0 else x) + plain_attention(block.self_attention, normed, normed, earlier)[0]
        update, maps = plain_attention(block.cross_attention, block.norm_cross(x), slots, valid)
        x = x + update
        x = x + block.mlp[2](F.relu(block.mlp[0](block.norm_mlp(x))))
    prediction, masks = torch.empty_like(tokens), torch.empty(B, K, N, dtype=torch.float64)
    prediction[:, permutation] = decoder.norm(x)
    masks[:, :, permutation] = maps.mT
    return prediction, masks.unflatten(-1, GRID)


def test_equals_a_plain_transcription_with_gradients() -> None:
    decoder, group = decoder_of().eval(), grouped()
    group.slots.vectors.requires_grad_()
    inputs = [group.slots.vectors, *decoder.parameters()]
    expected, expected_masks = plain(decoder, group, 0)
    decoded = decoder(group)
    torch.testing.assert_close(decoded.prediction, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(decoded.masks, expected_masks, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(expected)
    ours = torch.autograd.grad((decoded.prediction * cotangent).sum(), inputs)
    theirs = torch.autograd.grad((expected * cotangent).sum(), inputs)
    for mine, plainly in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plainly, rtol=1e-8, atol=1e-9)


def test_an_ensemble_is_the_mean_over_all_orders() -> None:
    decoder, group = decoder_of(permuted=True, ensemble=True).eval(), grouped()
    every = [plain(decoder, group, order) for order in range(9)]
    decoded = decoder(group)
    torch.testing.assert_close(decoded.prediction, torch.stack([one[0] for one in every]).mean(0))
    torch.testing.assert_close(decoded.masks, torch.stack([one[1] for one in every]).mean(0))


def test_training_draws_one_of_the_nine_orders() -> None:
    decoder, group = decoder_of(permuted=True), grouped()
    every = [plain(decoder, group, order)[0] for order in range(9)]
    drawn = set()
    for seed in range(60):
        torch.manual_seed(seed)
        prediction = decoder(group).prediction
        (match,) = (order for order, one in enumerate(every) if torch.allclose(prediction, one))
        drawn.add(match)
    assert drawn == set(range(9))
    assert torch.allclose(decoder.eval()(group).prediction, every[0])


@pytest.mark.parametrize("order", range(9))
def test_a_token_is_predicted_from_earlier_ones_only(order: int) -> None:
    decoder, group = decoder_of(permuted=True).eval(), grouped()
    tokens = group.features.tokens.clone().requires_grad_()
    place = decoder.orders[order]
    read, _ = decoder._read(tokens[:, place], decoder.start[order], decoder._memories(group.slots))
    for index in (0, 4, N - 1):
        (gradient,) = torch.autograd.grad(read[:, index].square().sum(), tokens, retain_graph=True, allow_unused=True)
        seen = set(gradient.abs().sum((0, 2)).nonzero().flatten().tolist())
        assert seen == set(place[:index].tolist())


def test_the_orders_on_nine_patches() -> None:
    written = [
        "012345678",  # rows
        "678345012",
        "210543876",
        "876543210",
        "036147258",  # columns
        "630741852",
        "258147036",
        "852741630",
        "410367852",  # out of the middle
    ]
    assert ["".join(map(str, order)) for order in patch_orders((3, 3)).tolist()] == written


@pytest.mark.parametrize("grid", [(14, 14), (3, 7), (1, 5), (4, 1)])
def test_orders_are_permutations_and_inverses_undo_them(grid: tuple[int, int]) -> None:
    count = grid[0] * grid[1]
    orders, raster = patch_orders(grid), torch.arange(count)
    assert orders.shape == (9, count)
    assert torch.equal(orders.sort(dim=1).values, raster.expand(9, -1))
    for order, inverse in zip(orders, inverse_orders(orders), strict=True):
        assert torch.equal(raster[order][inverse], raster)


@pytest.mark.parametrize("order", [0, 8])
def test_cached_generation_equals_reading_the_whole_prefix_again(order: int) -> None:
    decoder, group = decoder_of(permuted=True).eval(), grouped()
    found = torch.zeros(B, N, WIDTH, dtype=torch.float64)  # raster
    for patch in decoder.orders[order]:
        features = Features(found, GRID)
        found[:, patch] = plain(decoder, Grouped(features, features, group.initial, group.slots), order)[0][:, patch]
    torch.testing.assert_close(decoder.generate(group.slots, order), found, rtol=1e-9, atol=1e-9)


def test_dropped_slots_change_nothing() -> None:
    valid = torch.tensor([[True, False, True, True, False], [True] * 5])
    decoder, group = decoder_of().eval(), grouped(valid=valid)
    before = decoder(group)
    group.slots.vectors[~valid] += 10
    after = decoder(group)
    torch.testing.assert_close(after.prediction, before.prediction)
    assert (after.masks[0, [1, 4]] == 0).all()
    torch.testing.assert_close(after.masks.sum(dim=1), torch.ones(B, *GRID, dtype=torch.float64))


def test_a_model_trains_without_ever_computing_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr("ocl.decoders.autoregressive.attention_to_slots", lambda *_: read.append(1))
    model = ObjectCentricModel(
        CNNEncoder((16, 16), 24, 8, (2, 2)),
        RandomSlots(4, D),
        SlotAttention(D, token_dim=24, hidden_dim=16),
        AutoregressiveDecoder(D, 24, (4, 4), 2, HEADS),
    )
    batch = Batch(torch.rand(2, 3, 16, 16))
    FeatureReconstruction()(model(batch.images), batch).backward()
    assert not read
    assert model.initial_slots.mu.grad is not None
    assert bool((model.initial_slots.mu.grad != 0).any())


@pytest.mark.parametrize("permuted", [False, True])
def test_a_step_is_one_graph_to_a_compiler(permuted: bool) -> None:
    decoder, group = decoder_of(permuted=permuted), grouped()

    def loss(vectors: Tensor) -> Tensor:
        slots = Slots(vectors, None, group.slots.valid)
        read = decoder(Grouped(group.features, group.features, vectors, slots)).prediction
        return (read - group.features.tokens).square().mean()

    torch.manual_seed(1)
    eager = loss(group.slots.vectors)
    torch.manual_seed(1)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(group.slots.vectors)
    torch.testing.assert_close(compiled, eager)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="heads that divide 24"):
        AutoregressiveDecoder(D, 24, GRID, heads=5)
    with pytest.raises(ValueError, match="orders that were trained"):
        AutoregressiveDecoder(D, 24, GRID, ensemble=True)
    group = grouped()
    group.slots.notes["keep"] = torch.ones(B, K)
    with pytest.raises(ValueError, match="cannot weigh slots"):
        decoder_of()(group)
    with pytest.raises(ValueError, match="tokens must be"):
        AutoregressiveDecoder(D, 24, (2, 2), heads=3).double()(grouped())

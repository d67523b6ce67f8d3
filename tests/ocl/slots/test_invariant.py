"""Invariant Slot Attention against keys and values formed for every slot, and what moves with the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from ocl.decoders.broadcast import BroadcastDecoder
from ocl.encoders.cnn import CNNEncoder
from ocl.model import ObjectCentricModel
from ocl.representations import FrozenSlotModel
from ocl.shapes import Batch, Features, Slots
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import RandomSlots
from ocl.slots.invariant import InvariantSlotAttention, LearnedPlaces, UniformPlaces


class At(nn.Module):
    """Places that are given."""

    def __init__(self, places: Tensor) -> None:
        super().__init__()
        self.places = places

    def forward(self, slots: Tensor) -> Tensor:
        return self.places.expand(*slots.shape[:2], 2)


def one_round(
    module: InvariantSlotAttention, tokens: Tensor, grid: tuple[int, int], slots: Tensor, p: Tensor, s: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The equations as they stand, with keys and values (B K N D): new slots, A, places, sizes."""
    height, width = grid
    middles = [((n % width + 0.5) / width, (n // width + 0.5) / height) for n in range(height * width)]
    g = torch.tensor(middles, dtype=tokens.dtype)
    normed = module.norm_tokens(tokens)
    relative = module.relative((g[None, None] - p[:, :, None]) / s[:, :, None])
    keys, values = module.key(normed)[:, None] + relative, module.value(normed)[:, None] + relative
    queries = module.query(module.norm_slots(slots)) / math.sqrt(module.dim)
    attention = torch.einsum("bkd,bknd->bkn", queries, keys).softmax(dim=1)
    weights = attention + module.epsilon
    weights = weights / weights.sum(dim=-1, keepdim=True)
    update = torch.einsum("bkn,bknd->bkd", weights, values)
    p = torch.einsum("bkn,nc->bkc", weights, g)
    if module.scale:
        s = torch.einsum("bkn,bknc->bkc", weights, (g[None, None] - p[:, :, None]) ** 2).sqrt()
    batch, count, dim = slots.shape
    slots = module.gru(update.reshape(-1, dim), slots.reshape(-1, dim)).view(batch, count, dim)
    return slots + module.mlp(module.norm_mlp(slots)), attention, p, s


def transcription(module: InvariantSlotAttention, tokens: Tensor, grid: tuple[int, int], slots: Tensor) -> list[Tensor]:
    """Slots after T rounds; A, places and, with scale, sizes after one more."""
    p = module.places(slots)
    s = torch.ones_like(p)
    for _ in range(module.iterations):
        slots, _, p, s = one_round(module, tokens, grid, slots, p, s)
    _, attention, p, s = one_round(module, tokens, grid, slots, p, s)
    return [slots, attention, p, s] if module.scale else [slots, attention, p]


def parts(slots: Slots) -> list[Tensor]:
    assert slots.masks is not None
    return [slots.vectors, slots.masks.flatten(2), *(slots.notes[n] for n in ("position", "scale") if n in slots.notes)]


def assert_all_close(ours: Sequence[Tensor], theirs: Sequence[Tensor], tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


CASES = [
    (2, (16, 16), 7, 64, 64, False),
    (2, (16, 16), 7, 64, 64, True),
    (1, (6, 11), 5, 16, 24, True),
    (3, (1, 7), 2, 8, 8, False),
    (2, (1, 1), 1, 8, 8, False),
]


@pytest.mark.parametrize(("batch", "grid", "count", "dim", "token_dim", "scale"), CASES)
def test_equals_keys_and_values_of_their_own_for_every_slot(
    batch: int, grid: tuple[int, int], count: int, dim: int, token_dim: int, scale: bool
) -> None:
    module = InvariantSlotAttention(dim, token_dim, scale=scale, places=LearnedPlaces(count)).double()
    tokens = torch.randn(batch, grid[0] * grid[1], token_dim, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(batch, count, dim, dtype=torch.float64, requires_grad=True)
    inputs = [tokens, initial, *module.parameters()]
    found = parts(module(Features(tokens, grid), initial))
    expected = transcription(module, tokens, grid, initial)
    assert_all_close(found, expected, 1e-10)
    cotangents = [torch.randn_like(part) for part in expected]
    ours, theirs = (torch.autograd.grad(side, inputs, cotangents) for side in (found, expected))
    assert_all_close(ours, theirs, 1e-8)


def test_float32_equals_float64_to_1e_5() -> None:
    module = InvariantSlotAttention(64, scale=True, places=LearnedPlaces(7))
    tokens, initial = torch.randn(4, 1024, 64), torch.randn(4, 7, 64)
    single = parts(module(Features(tokens, (32, 32)), initial))
    double = parts(module.double()(Features(tokens.double(), (32, 32)), initial.double()))
    assert max(float((a - b).detach().abs().max()) for a, b in zip(single, double, strict=True)) < 1e-5


@pytest.mark.parametrize("gradient", ["implicit", "bilevel"])
def test_truncated_gradients_are_those_of_the_last_update(gradient: Literal["implicit", "bilevel"]) -> None:
    places = LearnedPlaces(3)
    module = InvariantSlotAttention(16, iterations=4, gradient=gradient, scale=True, places=places).double()
    tokens = torch.randn(2, 20, 16, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    found = parts(module(Features(tokens, (4, 5)), initial))
    assert_all_close(found, transcription(module, tokens, (4, 5), initial), 1e-10)  # the same slots

    slots, p = initial.detach(), places(initial).detach()
    s = torch.ones_like(p)
    for _ in range(3):
        slots, _, p, s = (part.detach() for part in one_round(module, tokens, (4, 5), slots, p, s))
    last = one_round(module, tokens, (4, 5), slots.requires_grad_(), p.requires_grad_(), s)[0]
    inputs = [tokens, *(part.weight for part in (module.relative, module.value, module.key, module.query))]
    *theirs, of_slots, of_places = torch.autograd.grad(last.square().sum(), [*inputs, slots, p])
    ours = torch.autograd.grad(found[0].square().sum(), [*inputs, initial, places.places], allow_unused=True)
    assert_all_close(ours[:-2], theirs, 1e-8)
    if gradient == "implicit":
        assert ours[-2:] == (None, None)
    else:
        assert_all_close(ours[-2:], [of_slots, of_places.sum(dim=0)], 1e-8)


def hard_winners(scale: bool) -> InvariantSlotAttention:
    """Random weights, except that slots and tokens name themselves in their first three entries, that the names stay
    as they are, and that they decide who wins which token, by logits so far apart that A is 0 or 1."""
    module = InvariantSlotAttention(8, scale=scale, epsilon=1e-300).double()
    with torch.no_grad():
        for layer in (module.query, module.key):
            layer.weight.zero_()
            layer.weight[:3, :3] = 1e3 * torch.eye(3)
        module.gru.bias_hh.view(3, 8)[1, :3] = 1e4  # the gate that keeps the state
        module.mlp[2].weight[:3] = 0
    return module


@pytest.mark.parametrize("scale", [False, True])
def test_slots_of_objects_stay_the_same_where_the_image_moves(scale: bool) -> None:
    """Two textured objects inside a plain background, and the places their slots start from, move by (4, -3) tokens."""
    module = hard_winners(scale)
    names = torch.eye(3, dtype=torch.float64)

    def image(across: int, down: int) -> Features:
        tokens = torch.zeros(1, 12, 15, 8, dtype=torch.float64)
        tokens[..., :3] = names[0]
        generator = torch.Generator().manual_seed(0)
        for name, (top, left, height, width) in ((1, (5, 2, 3, 2)), (2, (6, 5, 4, 3))):
            rows = slice(top + down, top + down + height)
            columns = slice(left + across, left + across + width)
            tokens[:, rows, columns, :3] = names[name]
            texture = torch.randn(height, width, 5, generator=generator, dtype=torch.float64)
            tokens[:, rows, columns, 3:] = texture
        return Features(tokens.flatten(1, 2), (12, 15))

    initial = torch.cat([10 * names, torch.randn(3, 5, dtype=torch.float64)], dim=-1)[None]
    start = torch.tensor([[0.5, 0.5], [0.3, 0.6], [0.4, 0.5]], dtype=torch.float64)
    shift = torch.tensor([4 / 15, -3 / 12], dtype=torch.float64)

    def slots(across: int, down: int, places: Tensor) -> Slots:
        module.places = At(places)
        found: Slots = module(image(across, down), initial)
        return found

    still, moved = slots(0, 0, start), slots(4, -3, start + shift)
    assert still.masks is not None
    assert moved.masks is not None
    assert still.masks[0, 1:].sum(dim=(1, 2)).tolist() == [6, 12]
    torch.testing.assert_close(moved.masks[:, 1:], still.masks[:, 1:].roll((-3, 4), dims=(2, 3)), rtol=0, atol=0)
    torch.testing.assert_close(moved.vectors[:, 1:], still.vectors[:, 1:], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.notes["position"][:, 1:], still.notes["position"][:, 1:] + shift)
    centres = torch.tensor([[3 / 15, 6.5 / 12], [6.5 / 15, 8 / 12]], dtype=torch.float64)
    torch.testing.assert_close(still.notes["position"][0, 1:], centres)
    if scale:  # sides of n tokens of 1/15 or 1/12: variance (n^2 - 1) / 12 in tokens
        sides = torch.tensor([[2.0, 3], [3, 4]], dtype=torch.float64)
        expected = ((sides**2 - 1) / 12).sqrt() / torch.tensor([15.0, 12])
        torch.testing.assert_close(moved.notes["scale"][0, 1:], expected)
    # The same start places are another start once the image has moved.
    assert (slots(4, -3, start).vectors[:, 1:] - still.vectors[:, 1:]).abs().max() > 1e-3


def test_slots_permute_with_their_places_and_k_is_free() -> None:
    module = InvariantSlotAttention(16, scale=True)
    features = Features(torch.randn(2, 30, 16), (5, 6))
    for count in (1, 4, 9):
        initial, places, order = torch.randn(2, count, 16), torch.rand(2, count, 2), torch.randperm(count)
        module.places = At(places)
        expected = [part[:, order] for part in parts(module(features, initial))]
        module.places = At(places[:, order])
        assert_all_close(parts(module(features, initial[:, order])), expected, 1e-5)


def test_a_slot_on_one_token_has_the_least_size_and_a_gradient() -> None:
    module = InvariantSlotAttention(8, scale=True, least_scale=0.02)
    tokens = torch.randn(2, 1, 8, requires_grad=True)
    slots = module(Features(tokens, (1, 1)), torch.randn(2, 1, 8))
    torch.testing.assert_close(slots.notes["position"], torch.full((2, 1, 2), 0.5))
    torch.testing.assert_close(slots.notes["scale"], torch.full((2, 1, 2), 0.02))
    (slots.vectors.sum() + slots.notes["scale"].sum()).backward()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()


def saved(module: SlotAttention, features: Features, initial: Tensor) -> list[Tensor]:
    """What one forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(features, initial)
    return list(kept.values())


def test_memory_is_that_of_slot_attention_with_one_more_round() -> None:
    batch, grid, count, dim = 2, (32, 32), 8, 64
    features = Features(torch.randn(batch, 1024, dim, requires_grad=True), grid)
    initial = torch.randn(batch, count, dim)
    ours = saved(InvariantSlotAttention(dim, scale=True), features, initial)
    plain = saved(SlotAttention(dim, iterations=4), features, initial)
    assert max(t.numel() for t in ours) == max(t.numel() for t in plain) == batch * 1024 * dim  # never (B K N D)
    sizes = [sum(t.untyped_storage().nbytes() for t in kept) for kept in (ours, plain)]
    map_size = batch * count * 1024 * 4  # one float32 (B K N)
    assert sizes[0] - sizes[1] < 5 * map_size  # one in each of four rounds, and what has no N
    assert sizes[0] < 1.2 * sizes[1]


def test_learned_places_are_of_one_k_and_even_places_of_any() -> None:
    with pytest.raises(ValueError, match="learned places are fixed at K = 3"):
        LearnedPlaces(3)(torch.zeros(2, 4, 8))
    with pytest.raises(ValueError, match="least_scale must be positive"):
        InvariantSlotAttention(8, least_scale=0)
    even = UniformPlaces().eval()
    for count in (2, 7, 24):
        places = even(torch.zeros(2, count, 8))
        assert torch.equal(places[0], places[1])
        assert torch.equal(places[0], even(torch.zeros(1, 50, 8))[0, :count])
        assert float(places.min()) >= 0
        assert float(places.max()) <= 1
        gaps = torch.cdist(places[0], places[0]) + 2 * torch.eye(count)
        assert float(gaps.min()) > 0.5 * count**-0.5
    random = UniformPlaces()(torch.zeros(500, 20, 8)).flatten(0, 1)
    counts = torch.histc(random[:, 0], 10, 0, 1)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(1000)
    assert torch.corrcoef(random.T)[0, 1].abs() < 5 / math.sqrt(10_000)


def test_bad_input_is_named() -> None:
    module = InvariantSlotAttention(16)
    with pytest.raises(ValueError, match="21 slots cannot share 20 tokens"):
        module(Features(torch.randn(2, 20, 16), (4, 5)), torch.randn(2, 21, 16))
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        module(Features(torch.randn(2, 20, 16), (4, 5)), torch.randn(2, 3, 16), iterations=0)


def test_frozen_slots_are_a_function_of_the_image() -> None:
    model = ObjectCentricModel(
        CNNEncoder((32, 32), 16, 8, (2, 2)),
        RandomSlots(4, 16),
        InvariantSlotAttention(16),
        BroadcastDecoder(16, (8, 8), 8, (2, 2)),
    )
    encoder, images = FrozenSlotModel(model), torch.rand(3, 3, 32, 32)
    assert torch.equal(encoder(Batch(images)).vectors[1:], encoder(Batch(images)).vectors[1:])
    torch.testing.assert_close(encoder(Batch(images[2:])).vectors, encoder(Batch(images)).vectors[2:])


def test_places_keep_their_digits_under_autocast() -> None:
    module = InvariantSlotAttention(32, scale=True, places=LearnedPlaces(5))
    features, initial = Features(torch.randn(4, 256, 32, requires_grad=True), (16, 16)), torch.randn(4, 5, 32)
    exact = module(features, initial)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(features, initial)
    for name in ("position", "scale"):
        assert half.notes[name].dtype == torch.float32
        assert (half.notes[name] - exact.notes[name]).abs().max() < 0.01
    half.vectors.float().square().sum().backward()
    assert features.tokens.grad is not None
    assert torch.isfinite(features.tokens.grad).all()


def test_slots_that_are_not_valid_win_nothing() -> None:
    module = InvariantSlotAttention(16, places=LearnedPlaces(4))
    features, initial = Features(torch.randn(2, 20, 16), (4, 5)), torch.randn(2, 4, 16)
    valid = torch.tensor([True, False, True, True]).expand(2, 4)
    found = module(features, initial, valid=valid)
    module.places = At(module.places(initial)[:, valid[0]])
    fewer = module(features, initial[:, valid[0]])
    assert found.masks is not None
    assert not found.masks[:, 1].any()
    assert torch.equal(found.valid, valid)
    torch.testing.assert_close(found.vectors[:, valid[0]], fewer.vectors)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_halves_work_on_the_cpu(dtype: torch.dtype) -> None:
    module = InvariantSlotAttention(16, scale=True, places=LearnedPlaces(3))
    tokens, initial = torch.randn(2, 20, 16), torch.randn(2, 3, 16)
    exact = module(Features(tokens, (4, 5)), initial)
    found = module.to(dtype)(Features(tokens.to(dtype), (4, 5)), initial.to(dtype))
    assert found.vectors.dtype == dtype
    assert found.notes["position"].dtype == torch.float32
    assert (found.vectors.float() - exact.vectors).norm() / exact.vectors.norm() < 0.03
    found.vectors.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_compiles_without_graph_breaks_and_agrees() -> None:
    module = InvariantSlotAttention(16, scale=True, places=LearnedPlaces(3))
    tokens, initial = torch.randn(2, 20, 16), torch.randn(2, 3, 16)

    def step(tokens: Tensor) -> list[Tensor]:
        return parts(module(Features(tokens, (4, 5)), initial))

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    eager, graph = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    expected, found = step(eager), compiled(graph)
    assert_all_close(found, expected, 1e-5)
    expected[0].square().sum().backward()
    found[0].square().sum().backward()
    assert eager.grad is not None
    assert graph.grad is not None
    torch.testing.assert_close(graph.grad, eager.grad, rtol=1e-4, atol=1e-5)
    for mode in (True, False):
        uniform = InvariantSlotAttention(16).train(mode)
        torch.compile(uniform, fullgraph=True, backend="aot_eager")(Features(tokens, (4, 5)), initial)

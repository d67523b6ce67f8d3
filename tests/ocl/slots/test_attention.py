"""Slot Attention against a plain float64 transcription of its equations, and its invariances."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from ocl.shapes import Features
from ocl.slots.attention import SlotAttention
from ocl.slots.initial import LearnedSlots, RandomPointSlots, RandomSlots


def transcription(module: SlotAttention, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """The equations in their published order: keys and values for every token, torch's own GRU cell."""
    normed = module.norm_tokens(tokens)
    keys, values = module.key(normed), module.value(normed)
    attention = slots
    for _ in range(module.iterations):
        queries = module.query(module.norm_slots(slots)) / math.sqrt(module.dim)
        attention = (keys @ queries.mT).softmax(dim=-1)  # (B N K)
        weights = attention + module.epsilon
        weights = weights / weights.sum(dim=1, keepdim=True)
        updates = weights.mT @ values
        batch, count, dim = slots.shape
        slots = module.gru(updates.reshape(-1, dim), slots.reshape(-1, dim)).view(batch, count, dim)
        slots = slots + module.mlp(module.norm_mlp(slots))
    return slots, attention.mT


CASES = [(2, (32, 32), 7, 64, 64), (1, (14, 14), 7, 256, 384), (3, (5, 9), 1, 16, 8), (2, (1, 1), 1, 8, 8)]


@pytest.mark.parametrize(("batch", "grid", "count", "dim", "token_dim"), CASES)
def test_equals_the_published_order_forward_and_gradients(
    batch: int, grid: tuple[int, int], count: int, dim: int, token_dim: int
) -> None:
    module = SlotAttention(dim, token_dim).double()
    tokens = torch.randn(batch, grid[0] * grid[1], token_dim, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(batch, count, dim, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(batch, count, dim, dtype=torch.float64)
    mask_cotangent = torch.randn(batch, count, *grid, dtype=torch.float64)
    inputs = [tokens, initial, *module.parameters()]

    expected, attention = transcription(module, tokens, initial)
    loss = (expected * cotangent).sum() + (attention.unflatten(-1, grid) * mask_cotangent).sum()
    expected_gradients = torch.autograd.grad(loss, inputs)

    found = module(Features(tokens, grid), initial)
    assert found.masks is not None
    gradients = torch.autograd.grad((found.vectors * cotangent).sum() + (found.masks * mask_cotangent).sum(), inputs)
    torch.testing.assert_close(found.vectors, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.masks, attention.unflatten(-1, grid), rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_float32_equals_float64_to_1e_5() -> None:
    module = SlotAttention(64)
    tokens, initial = torch.randn(4, 1024, 64), torch.randn(4, 7, 64)
    single = module(Features(tokens, (32, 32)), initial).vectors
    double = module.double()(Features(tokens.double(), (32, 32)), initial.double()).vectors
    assert (single - double).abs().max() < 1e-5


def test_without_token_gradient_the_result_is_the_same() -> None:
    module = SlotAttention(32)
    tokens, initial = torch.randn(2, 64, 32), torch.randn(2, 5, 32)
    plain = module(Features(tokens, (8, 8)), initial).vectors
    deferred = module(Features(tokens.requires_grad_(), (8, 8)), initial).vectors
    torch.testing.assert_close(plain, deferred, rtol=1e-6, atol=1e-6)


def test_a_second_backward_pass_does_not_see_the_first() -> None:
    """The first pass asks for the starts' gradient only and so never collects what it noted for the tokens."""
    module = SlotAttention(16)
    tokens = torch.randn(2, 20, 16, requires_grad=True)
    initial = torch.randn(2, 3, 16, requires_grad=True)
    loss = module(Features(tokens, (4, 5)), initial).vectors.square().sum()
    (once,) = torch.autograd.grad(loss, [tokens], retain_graph=True)
    torch.autograd.grad(loss, [initial], retain_graph=True)
    (twice,) = torch.autograd.grad(loss, [tokens])
    torch.testing.assert_close(once, twice, rtol=0, atol=0)


def test_a_loss_on_masks_alone_reaches_the_tokens() -> None:
    module = SlotAttention(16, iterations=1).double()
    tokens = torch.randn(1, 12, 16, dtype=torch.float64)
    initial = torch.randn(1, 3, 16, dtype=torch.float64)

    def of(tokens: Tensor) -> Tensor:
        masks = module(Features(tokens, (3, 4)), initial).masks
        assert masks is not None
        return masks[0, 0].square().sum()

    assert torch.autograd.gradcheck(of, [tokens.requires_grad_()])


@pytest.mark.parametrize("gradient", ["implicit", "bilevel"])
def test_truncated_gradients_are_those_of_the_last_iteration(gradient: Literal["implicit", "bilevel"]) -> None:
    module = SlotAttention(16, iterations=4, gradient=gradient).double()
    tokens = torch.randn(2, 20, 16, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True)
    found = module(Features(tokens, (4, 5)), initial).vectors
    full, _ = transcription(module, tokens, initial)
    torch.testing.assert_close(found, full, rtol=1e-10, atol=1e-10)  # the same slots

    inputs = [tokens, *module.parameters()]
    module.iterations = 3
    settled = transcription(module, tokens, initial)[0].detach().requires_grad_()
    module.iterations = 1
    last, _ = transcription(module, tokens, settled)
    *expected, of_start = torch.autograd.grad(last.square().sum(), [*inputs, settled])
    loss = found.square().sum()
    gradients = torch.autograd.grad(loss, [*inputs, initial], allow_unused=gradient == "implicit")
    for ours, theirs in zip(gradients, expected, strict=False):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
    if gradient == "implicit":
        assert gradients[-1] is None
    else:
        torch.testing.assert_close(gradients[-1], of_start, rtol=1e-8, atol=1e-8)


def tokens_of(batch_size: int) -> Features:
    return Features(torch.zeros(batch_size, 1, 1), (1, 1))


def test_slots_permute_and_k_is_free() -> None:
    module, starts = SlotAttention(32), RandomSlots(4, 32)
    features = Features(torch.randn(2, 64, 32), (8, 8))
    initial = starts(features, num_slots=9)
    order = torch.randperm(9)
    slots = module(features, initial)
    permuted = module(features, initial[:, order])
    torch.testing.assert_close(permuted.vectors, slots.vectors[:, order])
    assert slots.masks is not None
    torch.testing.assert_close(slots.masks.sum(dim=1), torch.ones(2, 8, 8))


def test_tokens_may_come_in_any_order() -> None:
    module = SlotAttention(16)
    tokens, initial = torch.randn(1, 30, 16), torch.randn(1, 4, 16)
    order = torch.randperm(30)
    a = module(Features(tokens, (5, 6)), initial).vectors
    b = module(Features(tokens[:, order], (5, 6)), initial).vectors
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_starved_slot_averages_all_tokens_under_autocast(dtype: torch.dtype) -> None:
    """Slot 1 loses every token by a logit gap of thousands: its attention is exactly 0, its update the plain mean."""
    module = SlotAttention(8, iterations=1)
    with torch.no_grad():
        module.query.weight.copy_(1e4 * torch.eye(8))
        module.key.weight.copy_(torch.eye(8))
        module.value.weight.copy_(torch.eye(8))
    tokens = torch.randn(1, 4096, 8).abs() * torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
    winner = torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
    initial = torch.stack([winner, -winner]).unsqueeze(0)
    with torch.autocast("cpu", dtype=dtype):
        slots = module(Features(tokens.requires_grad_(), (64, 64)), initial)
        loss = slots.vectors.float().square().sum()
    loss.backward()
    assert slots.masks is not None
    assert slots.masks.dtype == torch.float32
    assert torch.isfinite(slots.vectors).all()
    assert tokens.grad is not None
    assert torch.isfinite(tokens.grad).all()
    torch.testing.assert_close(slots.masks.sum(dim=1), torch.ones(1, 64, 64))


def test_bfloat16_autocast_is_close_to_float32() -> None:
    module = SlotAttention(64)
    features, initial = Features(torch.randn(4, 256, 64), (16, 16)), torch.randn(4, 7, 64)
    exact = module(features, initial).vectors
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = module(features, initial).vectors.float()
    assert (half - exact).norm() / exact.norm() < 0.03


def test_initialisation_numbers() -> None:
    """Glorot bound sqrt(6 / (fan in + fan out)), the start's bound 0.304 at D = 64, orthogonal recurrence."""
    module, starts = SlotAttention(64), RandomSlots(7, 64)
    assert math.isclose(math.sqrt(6 / 65), 0.304, abs_tol=5e-4)
    for parameter in (starts.mu, starts.log_sigma):
        assert parameter.abs().max() <= math.sqrt(6 / 65)
        assert parameter.abs().max() > 0.9 * math.sqrt(6 / 65)
    for layer, fan_sum in ((module.query, 128), (module.mlp[0], 192)):
        bound = math.sqrt(6 / fan_sum)
        assert 0.95 * bound < layer.weight.abs().max() <= bound
    assert 0.95 * math.sqrt(6 / 256) < module.gru.weight_ih.abs().max() <= math.sqrt(6 / 256)
    recurrent = module.gru.weight_hh
    torch.testing.assert_close(recurrent.mT @ recurrent, torch.eye(64), rtol=0, atol=1e-5)
    assert module.query.bias is None
    assert module.norm_tokens.eps == module.norm_slots.eps == module.norm_mlp.eps == 1e-3


def test_random_starts_reach_mu_and_sigma_with_gradient() -> None:
    starts = RandomSlots(5, 16)
    noise = torch.randn(3, 5, 16)
    starts(tokens_of(3), noise=noise).sum().backward()
    assert starts.mu.grad is not None
    assert starts.log_sigma.grad is not None
    torch.testing.assert_close(starts.mu.grad, torch.full((16,), 15.0))
    expected = (noise.sum(dim=(0, 1)) * starts.log_sigma.exp()).detach()
    torch.testing.assert_close(starts.log_sigma.grad, expected)


def test_random_points_are_uniform_and_exchangeable() -> None:
    starts = RandomPointSlots(4, 8)
    with torch.no_grad():
        starts.place.weight.zero_()
        starts.place.bias.zero_()
        starts.place.weight[0, 0] = starts.place.weight[1, 1] = 0.5
    points = starts(tokens_of(5000), num_slots=4)[..., :2].flatten(0, 1) + 0.5  # 0.5 (2 x - 1) + 0.5 = x
    counts = torch.histc(points[:, 0], 10, 0, 1)
    assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)
    assert torch.corrcoef(points.T)[0, 1].abs() < 5 / math.sqrt(20_000)


def test_bad_input_is_named() -> None:
    module = SlotAttention(16)
    good = torch.randn(2, 20, 16)
    with pytest.raises(ValueError, match="tokens must be"):
        module(Features(good, (4, 4)), torch.randn(2, 3, 16))
    with pytest.raises(ValueError, match="slots must be"):
        module(Features(good, (4, 5)), torch.randn(2, 3, 8))
    with pytest.raises(ValueError, match=r"slots must be \(2, K, 16\) with K >= 1, got \(2, 0, 16\)"):
        module(Features(good, (4, 5)), torch.randn(2, 0, 16))
    with pytest.raises(ValueError, match="positive multiple of heads"):
        SlotAttention(0)
    with pytest.raises(ValueError, match="epsilon must not be negative"):
        SlotAttention(16, epsilon=-1e-8)
    for count in (0, -1):
        with pytest.raises(ValueError, match="num_slots must be positive"):
            RandomSlots(3, 16)(tokens_of(2), num_slots=count)
    with pytest.raises(ValueError, match="21 slots cannot share 20 tokens"):
        module(Features(good, (4, 5)), torch.randn(2, 21, 16))
    with pytest.raises(ValueError, match="fixed at K = 3"):
        LearnedSlots(3, 16)(tokens_of(2), num_slots=4)
    for wrong in ((4, 16), (3, 3, 16)):
        with pytest.raises(ValueError, match=r"noise must be \(K, D\) = \(3, 16\) or \(B, K, D\) with B = 2"):
            RandomSlots(3, 16)(tokens_of(2), noise=torch.randn(wrong))


def test_compiles_without_graph_breaks_and_agrees() -> None:
    module = SlotAttention(16)
    features, initial = torch.randn(2, 20, 16), torch.randn(2, 3, 16)

    def step(tokens: Tensor, initial: Tensor) -> Tensor:
        vectors: Tensor = module(Features(tokens, (4, 5)), initial).vectors
        return vectors

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        compiled(features.clone().requires_grad_(), initial), step(features, initial), rtol=1e-5, atol=1e-6
    )
